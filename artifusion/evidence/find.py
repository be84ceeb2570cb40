"""Donors: real tissue of the same slide that looks like what was imagined in a hole and fits what surrounds it.

Coarse to fine. All places of a small picture of what is near the hole, and of one of the whole slide, are compared in
eight orientations; the best are shifted into place on the index's picture, read from the slide at about 2 um per pixel
and judged; the best of these are fitted at 1 um per pixel, then pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from artifusion.evidence.donors import CostWeights, Donor, Hole, Place
from artifusion.evidence.fitting import FORBIDDEN, Sought
from artifusion.evidence.index import DonorIndex, SearchView
from artifusion.evidence.likeness import best_shift, features, opponent
from artifusion.geometry import Box
from artifusion.slide.placed import oriented

PER_ORIENTATION = 3         # places that each orientation enters
REFINED = 8                 # places of a view that are fitted to the index's picture
JUDGED, FINISHED = 16, 6    # donors that are read, and that are fitted pixel by pixel
NEARLY = 0.05               # donors whose costs differ by no more than this share are as good
REUSED = 0.4                # share of its box that a donor may have in common with one that was taken
SAME = 0.8                  # ... with one that was judged, of its orientation


def find_donors(hole: Hole, indices: Sequence[DonorIndex], *, imagined: np.ndarray | None = None, seed: int = 0,
                weights: CostWeights | None = None, taken: Sequence[Donor] = ()) -> list[Donor]:
    """The donors for a hole, best first; none where nothing usable is large enough.

    Args:
        hole: with at least `reach_px` around what is to be filled, where the slide has it.
        indices: where to look: the hole's own slide, other images, or both.
        imagined: uint8 like the hole's pixels, what may look like its inside (default: its surroundings, smoothed).
        seed: which of those that fit nearly as well comes first; all others are in the order of their costs.
        taken: donors that other pieces of the region got: what overlaps one of these much is no donor again.

    The same call gives the same donors. Memory: the transforms of pictures of 360 px a side, and one donor that is
    read: some 50 MB for holes of 150 um at 0.25 um per pixel.
    """
    sought = Sought.of(hole, indices[0].mpp, imagined, weights or CostWeights())
    places = sorted(place for source, index in enumerate(indices) for place in searched(sought, index, source))
    judged: list[Donor] = []
    looked: list[Place] = []
    for place in places:
        box = place.l0_box(sought.size)
        if (any(place.source == donor.source and shared(box, donor.l0_box) > REUSED for donor in taken)
                or any(place[1:3] == other[1:3] and shared(box, other.l0_box(sought.size)) > SAME for other in looked)):
            continue
        looked.append(place)
        judged += sought.judged(place, indices[place.source])
        if len(looked) == JUDGED:
            break
    judged.sort(key=lambda donor: donor.cost)
    finished = (sought.finished(donor, indices[donor.source]) for donor in judged[:FINISHED])
    donors = sorted((donor for donor in finished if donor), key=lambda donor: donor.cost)
    equal = [donor for donor in donors if donor.cost <= donors[0].cost * (1 + NEARLY)]
    if len(equal) > 1:
        chosen = equal[int(np.random.default_rng([seed, *hole.filled_box[:2]]).integers(len(equal)))]
        donors.remove(chosen)
        donors.insert(0, chosen)
    return donors


def searched(sought: Sought, index: DonorIndex, source: int) -> Iterator[Place]:
    """The best places of the index's views, REFINED of each; those of coarser ones are shifted on its picture."""
    for view in index.views(sought.centre):
        for place in sorted(best_places(sought, view, index.step, source))[:REFINED]:
            yield nearer(sought, index, place, view.step) if view.step > 1 else place


def best_places(sought: Sought, view: SearchView, index_step: int, source: int) -> Iterator[Place]:
    """The PER_ORIENTATION best places of a view for each orientation, no two of them side by side."""
    step = index_step * view.step
    template, weight, support = sought.coarse(step)
    apart = max(1, min(weight.shape) // 6)
    for orientation, found in enumerate(view.picture.differences(template, weight, support)):
        for _ in range(PER_ORIENTATION if found.size else 0):
            row, column = (int(at) for at in np.unravel_index(int(np.argmin(found)), found.shape))
            if not np.isfinite(found[row, column]):
                break
            yield Place(float(found[row, column]), source, orientation, column * step + view.origin.x * index_step,
                        row * step + view.origin.y * index_step, index_step)
            found[max(0, row - apart) : row + apart + 1, max(0, column - apart) : column + apart + 1] = np.inf


def nearer(sought: Sought, index: DonorIndex, place: Place, slack: int) -> Place:
    """A place of a coarser view, shifted by at most `slack` pixels to where it fits best on the picture itself."""
    template, weight, _ = (oriented(part, place.orientation) for part in sought.coarse(index.step))
    step = index.step
    box = Box(place.l0_x // step, place.l0_y // step, weight.shape[1], weight.shape[0]).expanded(slack)
    inside = box.intersection(Box(0, 0, *index.size))
    if inside.width < weight.shape[1] or inside.height < weight.shape[0]:
        return place._replace(slack=step * slack)
    part = inside.slices()
    area = features(opponent(index.picture[part]), index.usable[part], step * index.mpp)
    area[~index.usable[part]] = FORBIDDEN
    row, column, difference = best_shift(area, template, weight)
    return place._replace(difference=difference, l0_x=(inside.x + column) * step, l0_y=(inside.y + row) * step)


def shared(one: Box, other: Box) -> float:
    """The common part of two boxes over the smaller of them."""
    return one.intersection(other).area / min(one.area, other.area)
