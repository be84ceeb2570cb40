"""Painting artifacts on clean slides, for demos, tests and evaluation: where they go, and one at a time.

`plan_damage` chooses the places, `damage_spot` paints one of them from the pixels around it, so that a slide
of any size is damaged with the memory of one artifact. `artifacts` says what each kind looks like.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Literal

import numpy as np
from scipy.ndimage import binary_dilation

from artifusion.damage.artifacts import PAINTERS, ArtifactFrame, PenInk
from artifusion.geometry import Box, Point, Size

Strength = Literal["mild", "strong"]

# Class ids in masks: the names that `--classes` knows, except that a thread counts as "other".
KINDS: dict[str, int] = {"fold": 1, "bubble": 2, "pen": 3, "blur": 4, "dark": 5, "dust": 6, "thread": 7}

# Longest side in um. Real folds and pen strokes run for millimetres; these keep holes moderate.
SIZES_UM: dict[str, tuple[float, float]] = {
    "fold": (150, 200), "bubble": (80, 140), "pen": (130, 180), "blur": (90, 150),
    "dark": (60, 100), "dust": (70, 120), "thread": (130, 200),
}
SMALLEST_PX = 24
GAP_PX = 40                 # between the boxes of two artifacts
MARGIN_PX = 2               # of the mask: covers an antialiased rim and what chroma subsampling spreads
ON_TISSUE = 0.8             # share of an artifact that must lie on tissue
SKETCH_PX = 64              # size_px of the sketch from which an artifact's place is planned
TRIES = 200                 # centres that are tried for one artifact


@dataclass(frozen=True)
class Spot:
    """One artifact to paint; everything about it follows from these values."""

    kind: str
    l0_center: Point
    size_px: int            # longest side at level 0, at most
    seed: int
    strength: Strength = "strong"
    ink: PenInk | None = None       # of a pen stroke; by default its strength and seed choose


def paint(
    kind: str, image: np.ndarray, center: tuple[int, int], size_px: int, rng: np.random.Generator,
    strength: Strength = "strong", ink: PenInk | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image with one artifact, and which pixels it covers: uint8 (H, W, 3), bool (H, W).

    Args:
        image: uint8 (H, W, 3), not modified.
        center: (x, y) of the artifact's middle pixel, inside the image; parts beyond the image are cut off.
        size_px: longest side of the artifact (the mask's margin apart), at least 24.
        ink: of a pen stroke.

    Pixels outside the mask equal the image exactly. The mask covers everything that shows, shadows and soft rims
    too, plus a margin of MARGIN_PX. It depends on kind, size_px, rng and strength alone.

    Raises:
        ValueError: unknown kind or strength, or an argument out of range.
    """
    check_artifact(kind, size_px, strength)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
    bounds = Box(0, 0, image.shape[1], image.shape[0])
    if not (0 <= center[0] < bounds.width and 0 <= center[1] < bounds.height):
        raise ValueError(f"center {center} lies outside the image of {bounds.width}x{bounds.height} px")
    reach = ArtifactFrame.reach(size_px)
    window = Box(center[0] - reach, center[1] - reach, 2 * reach + 1, 2 * reach + 1)
    # Clipped indices repeat the image's edge, so that a painter always sees a whole frame.
    rows = np.clip(np.arange(window.y, window.bottom), 0, bounds.height - 1)
    columns = np.clip(np.arange(window.x, window.right), 0, bounds.width - 1)
    pixels, footprint = paint_frame(kind, image[np.ix_(rows, columns)], size_px, rng, strength, ink)
    shown = window.intersection(bounds)
    out, mask = image.copy(), np.zeros(image.shape[:2], bool)
    mask[shown.slices()] = footprint[shown.slices(window)]
    out[mask] = pixels[shown.slices(window)][mask[shown.slices()]]
    return out, mask


def paint_frame(
    kind: str, pixels: np.ndarray, size_px: int, rng: np.random.Generator, strength: Strength,
    ink: PenInk | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Paint one artifact on the frame around its centre: uint8 (S, S, 3) -> uint8 (S, S, 3), its mask bool (S, S)."""
    frame = ArtifactFrame(pixels.astype(np.float32), size_px)
    more = {"ink": ink} if kind == "pen" else {}
    new, footprint = PAINTERS[kind](frame, rng, strength == "strong", **more)
    return np.clip(np.rint(new), 0, 255).astype(np.uint8), binary_dilation(footprint, iterations=MARGIN_PX)


def plan_damage(
    l0_size: Size, tissue: np.ndarray | None, kinds: Sequence[str], share: float = 0.03, mpp: float = 0.5,
    seed: int = 0, strength: Strength = "strong",
) -> tuple[Spot, ...]:
    """Choose artifacts on tissue until about `share` of the slide's area is masked.

    Args:
        l0_size: (width, height) of the slide at level 0.
        tissue: bool (h, w), the slide at any magnification, True = tissue; None = tissue everywhere.
        kinds: names from KINDS, taken in turn.
        share: of the slide's area, glass included, above 0 and at most 0.3.
        mpp: um per level-0 pixel; sizes follow from it, and shrink where a slide is small.

    The boxes of two artifacts are at least GAP_PX apart. Returns fewer artifacts where no more fit on the tissue, and
    none where there is no tissue. The result depends on the arguments alone.

    Raises:
        ValueError: unknown kind or strength, no kinds, or an argument out of range.
    """
    if not kinds:
        raise ValueError(f"no kinds given; choose from {', '.join(KINDS)}")
    for kind in kinds:
        check_artifact(kind, SMALLEST_PX, strength)
    if not 0 < share <= 0.3 or not mpp > 0:
        raise ValueError(f"share must lie in (0, 0.3] and mpp above 0, not {share} and {mpp}")
    tissue = np.ones((1, 1), bool) if tissue is None else np.asarray(tissue, bool)
    if not tissue.any():
        return ()
    rng = np.random.default_rng(seed)
    wanted_px, masked_px = share * l0_size[0] * l0_size[1], 0.0
    free_tissue = FreeTissue(l0_size, tissue)
    spots: list[Spot] = []
    misses, fit = 0, 1.0
    for kind in cycle(kinds):
        missing_px = wanted_px - masked_px
        size_px = round(rng.uniform(*SIZES_UM[kind]) / mpp * fit)
        size_px = max(SMALLEST_PX, min(size_px, int(0.6 * min(l0_size))))
        spot_seed = int(rng.integers(2**31))
        points, area_px = sketch_footprint(kind, size_px, spot_seed, strength)
        if area_px > 1.3 * missing_px:                                      # the last artifacts are smaller
            size_px = max(SMALLEST_PX, round(size_px * (missing_px / area_px) ** 0.5))
            points, area_px = sketch_footprint(kind, size_px, spot_seed, strength)
        center = free_tissue.take(points, rng)
        if center is None:
            misses, fit = misses + 1, max(0.4, 0.93 * fit)
        else:
            spots.append(Spot(kind, center, size_px, spot_seed, strength))
            masked_px, misses = masked_px + area_px, 0
        if masked_px >= 0.93 * wanted_px or misses >= 25:
            return tuple(spots)
    raise AssertionError("kinds is not empty")


class FreeTissue:
    """The tissue of a slide on which no artifact has been placed yet."""

    def __init__(self, l0_size: Size, tissue: np.ndarray) -> None:
        self._tissue, self._cells, self._size = tissue, np.argwhere(tissue), np.array(l0_size)
        self._ratio = np.array(tissue.shape[::-1]) / self._size
        self._taken = np.empty((0, 4))                                      # left, top, right, bottom

    def take(self, points: np.ndarray, rng: np.random.Generator) -> Point | None:
        """Choose a centre for an artifact and take its box; None where TRIES random ones did not fit.

        Args:
            points: (N, 2) offsets (x, y) of the artifact's pixels from its centre, in level-0 px.

        The artifact lies inside the slide, on tissue by a share of ON_TISSUE, and GAP_PX off all others.
        """
        cells_xy = self._cells[rng.integers(len(self._cells), size=TRIES)][:, ::-1] + rng.random((TRIES, 2))
        centers = (cells_xy / self._ratio).astype(int)
        first, last = centers + points.min(axis=0), centers + points.max(axis=0)
        sampled = points[:: max(1, len(points) // 256)]
        for i in np.flatnonzero((first >= 0).all(axis=1) & (last < self._size).all(axis=1)):
            too_close = (first[i] - GAP_PX < self._taken[:, 2:]) & (last[i] + GAP_PX > self._taken[:, :2])
            if too_close.all(axis=1).any():
                continue
            columns, rows = ((centers[i] + sampled) * self._ratio).astype(int).T
            if self._tissue[rows, columns].mean() >= ON_TISSUE:
                self._taken = np.append(self._taken, [[*first[i], *last[i]]], axis=0)
                return Point(*centers[i].tolist())
        return None


def sketch_footprint(kind: str, size_px: int, seed: int, strength: Strength) -> tuple[np.ndarray, float]:
    """Return roughly which pixels an artifact covers, margin included, and its area in px.

    The pixels are (N, 2) offsets (x, y) from its centre. The artifact is drawn at SKETCH_PX at most and scaled:
    footprints of all sizes look the same, except for rounding to whole pixels.
    """
    small = min(size_px, SKETCH_PX)
    scale, reach = size_px / small, ArtifactFrame.reach(small)
    blank = ArtifactFrame(np.full((2 * reach + 1, 2 * reach + 1, 3), 255, np.float32), small)
    _, footprint = PAINTERS[kind](blank, np.random.default_rng(seed), strength == "strong")
    wide = binary_dilation(footprint, iterations=1 + math.ceil(MARGIN_PX / scale))    # 1 for rounding to whole pixels
    rim = binary_dilation(footprint) & ~footprint
    rows, columns = np.nonzero(wide)
    area_px = np.count_nonzero(footprint) * scale**2 + np.count_nonzero(rim) * scale * MARGIN_PX
    return (np.stack([columns, rows], axis=1) - reach) * scale, float(area_px)


def mask_box(mask: np.ndarray, center: Point) -> Box:
    """Return the box of a mask, bool (S, S), whose middle pixel lies at `center`, in the frame of `center`."""
    reach = mask.shape[0] // 2
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Box.from_edges(
        int(columns[0]) - reach + center.x, int(rows[0]) - reach + center.y,
        int(columns[-1]) + 1 - reach + center.x, int(rows[-1]) + 1 - reach + center.y)


def damage_spot(spot: Spot, read: Callable[[Box], np.ndarray]) -> tuple[Box, np.ndarray, np.ndarray]:
    """Paint one artifact; return its level-0 box, the new pixels there, uint8 (h, w, 3), and its mask, bool (h, w).

    Args:
        read: level-0 box -> uint8 (h, w, 3), white outside the slide; called once, for a box of 1.3 size_px a side.

    The box fits the mask; pixels outside the mask are as they were read. Memory: up to 60 times the pixels that are
    read (180 MB for size_px 800).
    """
    check_artifact(spot.kind, spot.size_px, spot.strength)
    reach = ArtifactFrame.reach(spot.size_px)
    window = Box(spot.l0_center.x - reach, spot.l0_center.y - reach, 2 * reach + 1, 2 * reach + 1)
    before = read(window)
    pixels, mask = paint_frame(spot.kind, before, spot.size_px, np.random.default_rng(spot.seed), spot.strength,
                               spot.ink)
    l0_box = mask_box(mask, spot.l0_center)
    cut = l0_box.slices(window)
    return l0_box, np.where(mask[cut][..., None], pixels[cut], before[cut]), mask[cut]


def check_artifact(kind: str, size_px: int, strength: str) -> None:
    """Raise ValueError for an unknown kind or strength, or a size below SMALLEST_PX."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; choose from {', '.join(KINDS)}")
    if strength not in ("mild", "strong"):
        raise ValueError(f"strength must be mild or strong, not {strength!r}")
    if size_px < SMALLEST_PX:
        raise ValueError(f"size_px must be at least {SMALLEST_PX}, not {size_px}")
