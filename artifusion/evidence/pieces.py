"""A large or long hole in pieces over which tissue stays alike, in the order in which they are filled."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from artifusion.evidence.likeness import reduced

PIECE_UM = 150.0            # over which tissue stays alike: how long a piece is, about
GRID = 24                   # cells of the grid that pieces are cut on, per PIECE_UM
LONGER = 1.25               # times that, that a piece may measure
ROUNDS = 8                  # of Lloyd's algorithm


def pieces(hole: np.ndarray, mpp: float, longest_um: float = PIECE_UM) -> np.ndarray:
    """Which piece every pixel of a hole belongs to: int32 (H, W), from 1 in the order of filling; 0 outside.

    Compact pieces about longest_um wide and high, at most LONGER times that: long thin holes are cut across, along
    their length. From the edge inwards: always the piece comes next of which the largest share of its outline is known
    or filled. What is hidden but not in the hole counts as known; what lies outside the array does not.

    Memory: the result.
    """
    if not hole.any():
        return np.zeros(hole.shape, np.int32)
    step = max(1, int(longest_um / GRID / mpp))
    pad = [(0, -length % step) for length in hole.shape]
    small = reduced(np.pad(hole, pad).astype(np.float32), step) > 0
    cells = np.argwhere(small)
    nearest = np.zeros(small.shape, np.int32)
    nearest[tuple(cells.T)] = divided(cells, longest_um / (step * mpp)) + 1
    count = int(nearest.max())
    if count == 1:
        return hole.astype(np.int32)
    order = np.zeros(count + 1, np.int32)
    order[inwards(nearest)] = np.arange(1, count + 1)
    large = cv2.resize(order[nearest].astype(np.float32), None, fx=step, fy=step, interpolation=cv2.INTER_NEAREST)
    return np.where(hole, large[: hole.shape[0], : hole.shape[1]].astype(np.int32), 0)


def divided(cells: np.ndarray, longest: float) -> np.ndarray:
    """Cells (N, 2) in as few compact groups of limited length as seen fit: the number of each, from 0.

    Centres far from each other, moved to the middle of what is nearest to them  (Lloyd 1982), more of them until no
    group is too long.
    """
    extent = float(np.ptp(cells, axis=0).max()) + 1
    count = 1
    if extent > LONGER * longest:
        count = max(2, round(max(extent / longest, len(cells) / longest**2)))
    points = cells.astype(np.float64)
    while True:
        centres = spread(points, count)
        for _ in range(ROUNDS if count > 1 else 0):
            group = nearest_of(points, centres)
            centres = np.array([points[group == n].mean(axis=0) if (group == n).any() else centres[n]
                                for n in range(count)])
        _, group = np.unique(nearest_of(points, centres), return_inverse=True)
        longest_found = max(float(np.ptp(points[group == n], axis=0).max()) + 1 for n in range(group.max() + 1))
        if longest_found <= max(LONGER * longest, 1.0) or count >= len(cells):
            return group
        count += max(1, count // 8)


def spread(points: np.ndarray, count: int) -> np.ndarray:
    """Some of the points, each as far as possible from those before; the first lies furthest from their middle."""
    away = np.square(points - points.mean(axis=0)).sum(axis=1)
    chosen = [int(np.argmax(away))]
    away = np.square(points - points[chosen[0]]).sum(axis=1)
    while len(chosen) < count:
        chosen.append(int(np.argmax(away)))
        away = np.minimum(away, np.square(points - points[chosen[-1]]).sum(axis=1))
    return points[chosen]


def nearest_of(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The number of the centre nearest to each point; of several the first."""
    best = np.full(len(points), np.inf)
    found = np.zeros(len(points), np.int64)
    for number, centre in enumerate(centres):
        away = np.square(points - centre).sum(axis=1)
        nearer = away < best - 1e-9
        best[nearer], found[nearer] = away[nearer], number
    return found


def inwards(groups: np.ndarray) -> list[int]:
    """The numbers of the groups of a map, int (H, W), 0 = known, in the order of filling.

    Always the one of whose outline the most is known or filled; of several that which lies further out, then the first.
    """
    padded = np.pad(groups, 1, mode="edge")
    count = int(groups.max())
    borders = np.zeros((count + 1, count + 1), np.int64)
    for shifted in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        apart = groups != shifted
        np.add.at(borders, (groups[apart], shifted[apart]), 1)
    away = distance_transform_edt(np.pad(groups > 0, 1, constant_values=True))[1:-1, 1:-1]
    depth = np.bincount(groups.ravel(), away.ravel(), count + 1) / np.maximum(1, np.bincount(groups.ravel()))
    done, order = [0], []
    left = set(range(1, count + 1))
    while left:
        seen = borders[:, done].sum(axis=1) / np.maximum(1, borders.sum(axis=1))
        chosen = max(left, key=lambda n: (round(float(seen[n]), 3), -round(float(depth[n]), 3), -n))
        order.append(chosen)
        done.append(chosen)
        left.remove(chosen)
    return order
