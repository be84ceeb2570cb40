"""Donors are real, unmasked pixels of the slide that fit; the same call finds the same ones."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
from made_slides import he_like, tissue
from scipy.ndimage import gaussian_filter

from artifusion.evidence import index as index_module
from artifusion.evidence.donors import Donor, DonorFit, Hole, donor_pixels
from artifusion.evidence.find import find_donors
from artifusion.evidence.graft import graft
from artifusion.evidence.index import DonorIndex
from artifusion.geometry import Box, Size
from artifusion.mask.mask import Mask
from artifusion.slide.placed import oriented
from artifusion.slide.reader import Slide, in_memory

BOX = Box(600, 200, 140, 160)
INSIDE = Box(645, 250, 50, 60)


def with_hole(image: np.ndarray, box: Box = BOX, inside: Box = INSIDE) -> tuple[Hole, Mask]:
    """A rectangular hole in an image, black, and the mask that tells it."""
    hole = np.zeros((box.height, box.width), bool)
    hole[inside.slices(box)] = True
    pixels = np.where(hole[..., None], 0, image[box.slices()]).astype(np.uint8)
    outline = shapely.box(inside.x, inside.y, inside.right, inside.bottom)
    return Hole(box, pixels, hole, ~hole), Mask.of([outline], Size(image.shape[1], image.shape[0]))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return tissue(900, 700, 3)


def copied(image: np.ndarray, orientation: int, x: int = 200, y: int = 400) -> tuple[np.ndarray, Box]:
    """The image with what lies around the hole once more elsewhere, turned; and where."""
    image, copy = image.copy(), oriented(image[BOX.slices()], orientation)
    box = Box(x, y, copy.shape[1], copy.shape[0])
    image[box.slices()] = copy
    return image, box


@pytest.mark.parametrize("orientation", range(8))
def test_an_exact_copy_of_the_hole_is_found_however_it_lies(image, orientation):
    image, _ = copied(image, orientation)
    hole, mask = with_hole(image)
    index = DonorIndex.of(in_memory(image), 0.5, [mask])
    best = find_donors(hole, [index])[0]
    assert best.orientation == orientation and best.fit.edge == 0 and best.fit.ring < 0.01
    assert np.array_equal(donor_pixels(best, [index]), image[best.hole_box.slices()])


def test_how_well_surroundings_fit_does_not_depend_on_their_contrast(image):
    """A copy of the surroundings under noise, and all of it at half the contrast."""
    image, box = copied(image, 0)
    noise = gaussian_filter(np.random.default_rng(0).normal(0, 20, (box.height, box.width, 3)), (2, 2, 0))
    image[box.slices()] = (image[box.slices()] + noise / noise.std() * 8).clip(0, 255)
    fits = []
    for pixels in (image, 128 + (image.astype(int) - 128) // 2):
        hole, mask = with_hole(pixels.astype(np.uint8))
        best = find_donors(hole, [DonorIndex.of(in_memory(pixels.astype(np.uint8)), 0.5, [mask])])[0]
        assert best.l0_box.overlaps(box)
        fits.append(best.fit)
    assert fits[0].ring == pytest.approx(fits[1].ring, rel=0.1) and fits[0].edge == pytest.approx(fits[1].edge, rel=0.1)


def test_what_is_masked_is_no_donor(image):
    image, box = copied(image, 0)
    hole, mask = with_hole(image)
    other = Mask.of([shapely.box(box.x + 60, box.y + 70, box.x + 70, box.y + 80)], mask.l0_size)
    index = DonorIndex.of(in_memory(image), 0.5, [mask, other])
    donors = find_donors(hole, [index])
    assert donors and min(donor.fit.edge for donor in donors) > 1
    for donor in donors:
        taken = oriented(hole.cut(donor.hole_box).hole, donor.orientation)
        assert index.allowed(donor.l0_box)[taken].all()
        assert not (mask.read(donor.l0_box) | other.read(donor.l0_box))[taken].any()


def test_the_same_call_gives_the_same_donors_and_the_seed_picks_among_equals():
    image = np.full((500, 600, 3), (225, 180, 210), np.uint8)
    image += np.random.default_rng(0).integers(0, 4, image.shape, np.uint8)
    hole, mask = with_hole(image, Box(200, 200, 140, 160), Box(245, 250, 50, 60))
    index = DonorIndex.of(in_memory(image), 0.5, [mask])
    runs = [[find_donors(hole, [index], seed=seed) for _ in range(2)] for seed in range(4)]
    assert all(first == again for first, again in runs)
    assert len({first[0].l0_box for first, _ in runs}) > 1
    assert all(donor.cost <= 1.06 * min(other.cost for other in first) for first, _ in runs for donor in first[:1])


def test_a_hole_in_glass_gets_glass(image):
    rng = np.random.default_rng(1)
    glass = np.clip(rng.normal(245, 1, (700, 900, 3)), 0, 255).astype(np.uint8)
    glass[:, :450] = image[:, :450]
    hole, mask = with_hole(glass)
    filled = graft(hole, [DonorIndex.of(in_memory(glass), 0.5, [mask])])
    inside = filled.pixels[hole.hole].astype(float)
    assert filled.verdict == "good"
    assert np.abs(inside.mean(axis=0) - 245).max() < 1 and np.abs(inside.std(axis=0) - 1).max() < 1


@pytest.mark.parametrize("hidden_px", [8, 16, 24, 34, 60])
def test_a_hole_that_other_masks_enclose_is_filled_from_what_is_known_further_off(image, hidden_px):
    hole, mask = with_hole(image)
    hidden = np.zeros_like(hole.known)
    hidden[INSIDE.expanded(hidden_px).intersection(BOX).slices(BOX)] = True
    enclosed = Hole(hole.l0_box, hole.pixels, hole.hole, ~hidden)
    found = graft(enclosed, [DonorIndex.of(in_memory(image), 0.5, [mask])])
    assert (found.pieces[hole.hole] > 0).all() and len(found.donors) == 1


@pytest.mark.parametrize("hidden", ["beside the slide", "masked"])
def test_what_is_hidden_around_a_donor_says_nothing_of_its_tone(hidden, monkeypatch):
    """Plain tissue, and a donor of which the last 20 columns are beside the slide or black and masked."""
    plain = np.full((300, 420 if hidden == "masked" else 380, 3), (200, 150, 190), np.uint8)
    hole, mask = with_hole(plain, Box(0, 60, 156, 156), Box(38, 98, 80, 80))
    if hidden == "masked":
        plain[:, 380:] = 0
        mask = Mask.of([*mask.polygons, shapely.box(380, 0, 420, 300)], mask.l0_size)
    donor = Donor(hole.l0_box, Box(244, 60, 156, 156), 0, 0, 0.0, DonorFit(*[0.0] * 10))
    monkeypatch.setattr("artifusion.evidence.graft.find_donors", lambda *_, **__: [donor])
    filled = graft(hole, [DonorIndex.of(in_memory(plain), 0.5, [mask])])
    assert (filled.pixels[hole.hole] == plain[0, 0]).all()


def test_where_nothing_is_large_enough_there_is_no_donor(image):
    small = image[:90, :100]
    hole, mask = with_hole(small, Box(0, 0, 100, 90), Box(20, 20, 60, 50))
    index = DonorIndex.of(in_memory(small), 0.5, [mask])
    assert find_donors(hole, [index]) == []
    found = graft(hole, [index])
    assert found.verdict == "unrestorable" and found.score == 0 and found.donors == (None,)
    assert np.array_equal(found.pixels, hole.pixels)
    other = DonorIndex.of_images([tissue(400, 300, 9)], 0.5)
    assert graft(hole, [index, *other]).donors[0].source == 1


def test_other_images_are_donors_too(image):
    hole, _ = with_hole(image)
    images = [tissue(300, 260, 8), copied(tissue(500, 700, 9), 5, 100, 100)[0]]
    images[1][300 : 300 + BOX.width, 50 : 50 + BOX.height] = oriented(image[BOX.slices()], 5)
    indices = DonorIndex.of_images(images, 0.5)
    best = find_donors(hole, indices)[0]
    assert (best.source, best.orientation) == (1, 5)
    assert np.array_equal(donor_pixels(best, indices), image[best.hole_box.slices()])


def test_what_was_imagined_decides_between_donors_that_fit_around(image):
    """Two copies of the surroundings: one is dark inside, one is light."""
    dark, box = copied(image, 0)
    dark[box.slices()][50:110, 45:95] //= 2
    both, second = copied(dark, 0, 20, 20)
    both[second.slices()][50:110, 45:95] = 255 - (255 - both[second.slices()][50:110, 45:95]) // 2
    hole, mask = with_hole(both)
    index = DonorIndex.of(in_memory(both), 0.5, [mask])
    for wanted, level in ((box, 80), (second, 215)):
        imagined = np.where(hole.hole[..., None], level, hole.pixels).astype(np.uint8)
        best = find_donors(hole, [index], imagined=imagined)[0]
        assert best.l0_box.overlaps(wanted) and best.fit.edge == 0


def test_taken_donors_are_not_taken_again(image):
    image, _ = copied(image, 0)
    hole, mask = with_hole(image)
    index = DonorIndex.of(in_memory(image), 0.5, [mask])
    best = find_donors(hole, [index])[0]
    again = find_donors(hole, [index], taken=[best])
    assert again and all(donor.l0_box != best.l0_box for donor in again)


class Endless(Slide):
    """10 Gpx that are made up as they are read; counts the largest read."""

    path, icc, vendor, properties = Path("endless"), None, "test", {}
    level_sizes = (Size(100_000, 100_000), Size(25_000, 25_000), Size(6_250, 6_250))
    level_downsamples = (1.0, 4.0, 16.0)
    mpp, mpp_origin = 0.25, "file"

    def __init__(self) -> None:
        self.largest = {0: 0, 1: 0, 2: 0}
        self.stain = tissue(512, 512, 4)

    def _pixels(self, level: int, lv_box: Box) -> np.ndarray:
        self.largest[level] = max(self.largest[level], lv_box.area)
        rows, columns = (np.arange(start, stop) % 512 for start, stop in
                         ((lv_box.y, lv_box.bottom), (lv_box.x, lv_box.right)))
        return self.stain[rows][:, columns]


def test_a_slide_of_ten_gigapixels_is_read_in_boxes():
    slide = Endless()
    index = DonorIndex.of(slide, 0.25)
    assert index.picture.nbytes + index.usable.nbytes < 200e6 and index.size == (6250, 6250)
    assert slide.largest[0] == slide.largest[1] == 0 and slide.largest[2] <= 4096**2
    box, inside = Box(50_000, 50_000, 360, 360), Box(50_080, 50_080, 200, 200)
    hole = np.zeros((360, 360), bool)
    hole[inside.slices(box)] = True
    mask = Mask.of([shapely.box(inside.x, inside.y, inside.right, inside.bottom)], slide.size)
    donors = find_donors(Hole(box, slide.read(box), hole, ~hole), [index.without(mask)])
    assert donors and max(slide.largest[0], slide.largest[1]) < 1000**2


def test_a_slide_whose_scale_is_mistaken_is_indexed_in_bounded_memory():
    step = index_module.index_step(Size(100_000, 100_000), 10.0)
    assert (100_000 // step) ** 2 <= index_module.FULL_PX


def test_holes_that_do_not_fit_together_are_refused(image):
    hole, _ = with_hole(image)
    for broken in ({"hole": hole.hole[1:]}, {"known": hole.hole}, {"hole": np.zeros_like(hole.hole)}):
        with pytest.raises(ValueError, match="a hole"):
            Hole(**{**vars(hole), **broken})
    assert isinstance(find_donors(hole, [DonorIndex.of(in_memory(image), 0.5)])[0], Donor)


def test_a_donor_as_sharp_as_its_surroundings_comes_before_a_blurred_one():
    """Two copies of the hole's place: one out of focus, one sharp and a little lighter."""
    image, sharp = copied(he_like(900, 700), 0, 100, 400)
    image[sharp.slices()] += 12
    blurred = sharp._replace(x=700)
    image[blurred.slices()] = cv2.GaussianBlur(image[BOX.slices()], (0, 0), 1)
    hole, mask = with_hole(image)
    best = find_donors(hole, [DonorIndex.of(in_memory(image), 0.5, [mask])])[0]
    assert best.l0_box.overlaps(sharp) and best.fit.focus == 0
