import numpy as np
import pytest
from scipy import ndimage
from scipy.ndimage import binary_erosion

from artifusion.damage.artifacts import INKS, PenInk
from artifusion.damage.spots import GAP_PX, KINDS, Spot, damage_spot, paint, plan_damage
from artifusion.geometry import Box, Point, Size
from artifusion.slide.tissue import optical_density

SIZE_PX = 120
CENTER = (100, 90)


@pytest.fixture(scope="module")
def tissue_image():
    """Pink stroma with purple nuclei, uint8 (190, 200, 3)."""
    rng = np.random.default_rng(7)
    grain = ndimage.gaussian_filter(rng.normal(size=(190, 200)), 1.5)
    nuclei = (ndimage.gaussian_filter(rng.normal(size=(190, 200)), 4) > 0.09)[..., None]
    stroma = np.array([225, 160, 200]) + 120 * grain[..., None]
    return np.clip(np.where(nuclei, stroma - [110, 90, 60], stroma), 20, 245).astype(np.uint8)


@pytest.fixture(params=["mild", "strong"])
def strength(request):
    return request.param


def painted(image, kind, strength="strong", seed=0, center=CENTER):
    return paint(kind, image, center, SIZE_PX, np.random.default_rng(seed), strength)


def reader(image):
    """read(box) of an image, white outside."""
    bounds = Box(0, 0, image.shape[1], image.shape[0])

    def read(l0_box):
        out = np.full((l0_box.height, l0_box.width, 3), 255, np.uint8)
        inside = l0_box.intersection(bounds)
        out[inside.slices(l0_box)] = image[inside.slices()]
        return out

    return read


def luminance(px):
    return px.astype(float).mean(axis=-1)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_outside_the_mask_are_untouched_and_most_inside_change(tissue_image, kind, strength):
    before = tissue_image.copy()
    for seed in range(4):
        image, mask = painted(tissue_image, kind, strength, seed)
        changed = (image != tissue_image).any(axis=2)
        assert image.dtype == np.uint8 and mask.dtype == bool and mask.shape == image.shape[:2]
        assert not changed[~mask].any()
        # Specks and fibres are thin, so the margin is a good part of their masks; blur spares flat tissue.
        assert changed.sum() > (0.6 if kind in ("dust", "thread", "blur") else 0.7) * mask.sum()
    assert np.array_equal(before, tissue_image)


@pytest.mark.parametrize("kind", KINDS)
def test_changed_pixels_keep_clear_of_the_masks_edge(tissue_image, kind, strength):
    image, mask = painted(tissue_image, kind, strength)
    rim = mask & ~ndimage.binary_erosion(mask, iterations=2)
    assert np.array_equal(image[rim], tissue_image[rim])


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_pixels_and_another_seed_others(tissue_image, kind):
    first, second = painted(tissue_image, kind, seed=3), painted(tissue_image, kind, seed=3)
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], painted(tissue_image, kind, seed=4)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_mask_depends_on_the_seed_not_on_the_tissue(tissue_image, kind, strength):
    other = 255 - tissue_image
    assert np.array_equal(painted(tissue_image, kind, strength)[1], painted(other, kind, strength)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_strong_changes_more_than_mild(tissue_image, kind):
    def change(strength):
        images = [painted(tissue_image, kind, strength, seed)[0] for seed in range(4)]
        return np.abs(np.array(images, int) - tissue_image).mean()

    assert change("strong") > 1.2 * change("mild")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size_px", [24, 50, 160])
def test_artifacts_stay_within_their_size(kind, size_px, strength):
    blank = np.full((301, 301, 3), 200, np.uint8)
    for seed in range(8):
        _, mask = paint(kind, blank, (150, 150), size_px, np.random.default_rng(seed), strength)
        rows, columns = np.nonzero(mask)
        furthest = max(abs(rows - 150).max(), abs(columns - 150).max())
        assert (0.2 if kind == "dust" else 0.25) * size_px < furthest <= 0.5 * size_px + 3


@pytest.mark.parametrize("kind", ["fold", "pen", "dark", "dust", "thread"])
def test_absorbing_kinds_darken(tissue_image, kind, strength):
    image, mask = painted(tissue_image, kind, strength)
    core = mask & (image != tissue_image).any(axis=2)
    assert luminance(image[core]).mean() < luminance(tissue_image[core]).mean() - 8


def test_fold_adds_the_colour_of_tissue(tissue_image):
    image, mask = painted(tissue_image, "fold")
    core = ndimage.binary_erosion(mask, iterations=5)
    saturation = lambda px: (px.max(axis=-1).astype(float) - px.min(axis=-1)) / px.max(axis=-1)  # noqa: E731
    assert saturation(image[core]).mean() > 1.2 * saturation(tissue_image[core]).mean()


def test_bubble_has_a_dark_rim_a_bright_line_and_a_dull_inside(tissue_image, strength):
    image, mask = painted(tissue_image, "bubble", strength)
    depth = ndimage.distance_transform_edt(mask)
    by_depth = [luminance(image[(depth > d) & (depth <= d + 1)]).mean() for d in range(int(depth.max()))]
    rim = int(np.argmin(by_depth[: len(by_depth) // 2]))
    assert by_depth[rim] < luminance(tissue_image).mean() - 40
    assert max(by_depth[rim : rim + 12]) > by_depth[rim] + 50
    inside = depth > 0.6 * depth.max()
    assert image[inside].std(axis=0).mean() < 0.9 * tissue_image[inside].std(axis=0).mean()


def test_pen_comes_in_several_colours(tissue_image):
    strongest = set()
    for seed in range(12):
        image, mask = painted(tissue_image, "pen", seed=seed)
        core = ndimage.binary_erosion(mask, iterations=8)
        loss = (tissue_image[core].astype(float) / (image[core] + 1.0)).mean(axis=0)
        strongest.add(tuple((loss > 0.6 * loss.max()).tolist()))
    assert len(strongest) >= 3


def test_blur_takes_away_detail_and_keeps_the_mean(tissue_image, strength):
    image, mask = painted(tissue_image, "blur", strength)
    core = ndimage.distance_transform_edt(mask) > 25
    detail = [np.abs(ndimage.laplace(luminance(px)))[core].mean() for px in (tissue_image, image)]
    assert detail[1] < 0.5 * detail[0]
    assert abs(luminance(image[core]).mean() - luminance(tissue_image[core]).mean()) < 6


def test_artifact_is_cut_off_at_the_images_edge(tissue_image):
    for center in [(0, 0), (199, 189), (3, 120)]:
        image, mask = painted(tissue_image, "bubble", center=center)
        assert mask.any() and not (image != tissue_image).any(axis=2)[~mask].any()


def test_wrong_arguments_name_the_choices(tissue_image):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"tear.*fold, bubble, pen, blur, dark, dust, thread"):
        paint("tear", tissue_image, CENTER, SIZE_PX, rng)
    with pytest.raises(ValueError, match=r"fold, bubble"):
        plan_damage(Size(1000, 1000), None, ["fold", "tear"])
    with pytest.raises(ValueError, match="fold, bubble"):
        plan_damage(Size(1000, 1000), None, [])
    with pytest.raises(ValueError, match="mild or strong"):
        paint("fold", tissue_image, CENTER, SIZE_PX, rng, "weak")
    with pytest.raises(ValueError, match="outside the image"):
        paint("fold", tissue_image, (200, 0), SIZE_PX, rng)
    with pytest.raises(ValueError, match="at least 24"):
        paint("fold", tissue_image, CENTER, 5, rng)
    with pytest.raises(ValueError, match="share"):
        plan_damage(Size(1000, 1000), None, ["fold"], share=0)


def test_plan_masks_about_the_share_on_tissue_without_overlap():
    l0_size = Size(2400, 2000)
    tissue = np.zeros((100, 120), bool)
    tissue[20:80, 10:100] = True                                            # 20 level-0 px per cell
    l0_tissue = np.kron(tissue, np.ones((20, 20), bool))
    spots = plan_damage(l0_size, tissue, list(KINDS), share=0.03, mpp=1.0, seed=5)
    assert spots == plan_damage(l0_size, tissue, list(KINDS), share=0.03, mpp=1.0, seed=5)
    assert spots != plan_damage(l0_size, tissue, list(KINDS), share=0.03, mpp=1.0, seed=6)
    assert {spot.kind for spot in spots} == set(KINDS)
    read = reader(np.full((2000, 2400, 3), 200, np.uint8))
    boxes, covered = [], 0
    for spot in spots:
        l0_box, patch, mask = damage_spot(spot, read)
        assert patch.shape == (l0_box.height, l0_box.width, 3) and mask.shape == patch.shape[:2]
        assert l0_tissue[l0_box.slices()][mask].mean() > 0.7
        assert not any(l0_box.expanded(GAP_PX).overlaps(box) for box in boxes)
        boxes.append(l0_box)
        covered += mask.sum()
    assert 0.025 < covered / (2400 * 2000) < 0.035


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_sizes_follow_the_spacing(mpp):
    spots = plan_damage(Size(6000, 6000), None, ["fold"], share=0.002, mpp=mpp, seed=1)
    assert spots and all(150 <= round(spot.size_px * mpp) <= 200 for spot in spots[:1])


def test_small_images_get_small_artifacts():
    image = np.full((512, 512, 3), 200, np.uint8)
    spots = plan_damage(Size(512, 512), None, ["fold", "bubble"], share=0.03, mpp=0.25, seed=0)
    covered = sum(damage_spot(spot, reader(image))[2].sum() for spot in spots)
    assert spots and 0.02 < covered / 512**2 < 0.04


def test_no_tissue_no_artifacts():
    assert plan_damage(Size(2000, 2000), np.zeros((50, 50), bool), ["fold"]) == ()
    assert plan_damage(Size(20, 20), None, ["fold"]) == ()


@pytest.mark.parametrize("kind", KINDS)
def test_spot_equals_painting_the_whole_image(tissue_image, kind):
    image = np.pad(tissue_image, ((80, 80), (80, 80), (0, 0)), mode="reflect")
    spot = Spot(kind, Point(180, 170), SIZE_PX, seed=11)
    l0_box, patch, mask = damage_spot(spot, reader(image))
    whole, whole_mask = paint(kind, image, spot.l0_center, SIZE_PX, np.random.default_rng(11))
    assert np.array_equal(whole[l0_box.slices()], patch)
    assert np.array_equal(whole_mask[l0_box.slices()], mask) and whole_mask.sum() == mask.sum()
    assert np.array_equal(patch[~mask], image[l0_box.slices()][~mask])


@pytest.mark.parametrize("colour", INKS)
def test_ink_absorbs_what_it_is_said_to_and_its_spectrum_bends_where_it_is_thick(colour):
    ink, channel = PenInk(colour, 1.2), int(np.argmax(INKS[colour]))
    thin, full = ink.added(np.array([0.01])), ink.added(np.array([1.0]))
    assert thin[0, channel] == pytest.approx(0.012, rel=0.02)
    assert 0.8 * 1.2 < full[0, channel] < 1.2                       # what a broad channel lets through
    others = np.delete(np.arange(3), channel)
    assert (full[0, others] / full[0, channel] >= thin[0, others] / thin[0, channel] - 1e-6).all()


def test_a_stroke_of_given_ink_has_the_shape_of_any_other_and_its_density():
    white = np.full((200, 200, 3), 255, np.uint8)
    masks = [paint("pen", white, (100, 100), 160, np.random.default_rng(3), ink=ink)[1]
             for ink in (None, PenInk("red", 0.4), PenInk("black", 1.5, 0))]
    assert (masks[0] == masks[1]).all() and (masks[0] == masks[2]).all()
    inks = [PenInk("red", 0.4, streaks) for streaks in (0, 1)]
    smooth, streaky = (paint("pen", white, (100, 100), 160, np.random.default_rng(3), ink=ink)[0] for ink in inks)
    inside = binary_erosion(masks[0], iterations=22)
    assert smooth[..., 1][inside].std() < 0.8 * streaky[..., 1][inside].std()
    assert optical_density(smooth)[..., 1][inside].mean() == pytest.approx(0.35, abs=0.08)


@pytest.mark.parametrize("wrong", [("violet", 1.0), ("red", 0.0), ("red", 9.0), ("red", 1.0, 5.0)])
def test_ink_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="ink"):
        PenInk(*wrong)
