import json

import numpy as np
import pytest
import torch

from artifusion.checkpoint import Weights, save_weights
from artifusion.config import DenoiserConfig, RestoreConfig
from artifusion.device import threads_tell
from artifusion.diffusion.denoiser import ChannelNorm, SwinDenoiser
from artifusion.diffusion.frame import Frame, total
from artifusion.errors import DeviceError, WeightsError
from artifusion.pixels import images_from_tensor, tensor_from_images
from artifusion.restorer import Restorer

TINY = DenoiserConfig(pixel_dim=8, dims=(16, 32), heads=(2, 2), depths=(1, 1), window_sizes=(4, 4), time_dim=16)


@pytest.fixture(scope="module")
def restorer():
    """An untrained tiny restorer in fp32: its paint is noise, its promises are the real ones."""
    torch.manual_seed(0)
    denoiser = SwinDenoiser(TINY)
    torch.nn.init.normal_(denoiser.head[3].weight, std=0.05)
    return Restorer(Weights(denoiser, "tiny", "0" * 64, {}), "cpu")


@pytest.fixture
def fp32(monkeypatch):
    from contextlib import nullcontext

    monkeypatch.setattr("artifusion.restorer.autocast", lambda device: nullcontext())


def example(seed=0, height=50, width=70):
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), bool)
    mask[10:30, 20:45] = True
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8), mask


def test_kept_pixels_come_back_exactly_and_masked_ones_are_painted(restorer):
    image, mask = example()
    before = image.copy()
    restored = restorer.restore(image, mask)
    assert np.array_equal(restored[~mask], image[~mask])
    assert (restored[mask] != image[mask]).any()
    assert np.array_equal(image, before)


def test_what_lies_under_the_mask_is_never_seen(restorer):
    image, mask = example()
    other = image.copy()
    other[mask] = 255 - other[mask]
    assert np.array_equal(restorer.restore(image, mask), restorer.restore(other, mask))


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others(restorer):
    image, mask = example()
    first, second = restorer.restore(image, mask, seed=3), restorer.restore(image, mask, seed=3)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, restorer.restore(image, mask, seed=4))


def test_a_batch_of_four_equals_four_batches_of_one_to_one_grey_level(restorer, fp32):
    examples = [example(seed) for seed in range(4)]
    keys = [(n, 7) for n in range(4)]
    together = restorer.restore_batch([i for i, _ in examples], [m for _, m in examples], keys=keys)
    for (image, mask), key, restored in zip(examples, keys, together, strict=True):
        alone = restorer.restore_batch([image], [mask], keys=[key])[0]
        assert np.abs(alone.astype(int) - restored.astype(int)).max() <= 1


def test_images_of_several_sizes_in_one_call(restorer):
    examples = [example(0, 50, 70), example(1, 64, 64), example(2, 50, 70)]
    restored = restorer.restore_batch([i for i, _ in examples], [m for _, m in examples])
    assert [r.shape for r in restored] == [i.shape for i, _ in examples]


def test_an_empty_mask_returns_the_image_and_no_images_none(restorer):
    image, mask = example()
    assert np.array_equal(restorer.restore(image, np.zeros_like(mask)), image)
    assert restorer.restore_batch([], []) == []


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (np.zeros((8, 8), np.uint8), np.zeros((8, 8), bool), "uint8"),
        (np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), bool), "uint8"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), "bool"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((4, 8), bool), "bool"),
        (np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), bool), "whole image"),
    ],
)
def test_wrong_arrays_are_refused(restorer, image, mask, message):
    with pytest.raises(ValueError, match=message):
        restorer.restore(image, mask)


def test_uint8_survives_the_way_to_tensors_and_back():
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(images_from_tensor(tensor_from_images(image)), image)


def test_the_frame_is_that_of_the_known_pixels_and_invertible():
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    known = torch.zeros(2, 1, 16, 16)
    known[..., :8] = 1
    frame = Frame.of_known(pixels, known)
    assert torch.allclose(frame.enter(pixels)[..., :8].mean((2, 3)), torch.zeros(2, 3), atol=1e-5)
    assert torch.allclose(frame.leave(frame.enter(pixels)), pixels, atol=1e-5)
    changed = pixels.clone()
    changed[..., 8:] = 0
    assert torch.equal(Frame.of_known(changed, known).mean, frame.mean)


def test_missing_weights_and_devices_are_one_clear_error(tmp_path):
    with pytest.raises(WeightsError, match="no such weights"):
        Restorer.from_pretrained("./nothing")
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_text("short")
    with pytest.raises(WeightsError, match="broken"):
        Restorer.from_pretrained(tmp_path)
    if not torch.cuda.is_available():
        from artifusion.device import resolve_device

        with pytest.raises(DeviceError, match="cpu"):
            resolve_device("cuda")


def test_the_embedded_weights_take_the_palette_of_the_surroundings():
    """A hole in pink tissue is filled pink, in violet tissue violet, and not flat."""
    restorer = Restorer.from_pretrained("he-small", device="cpu")
    rng = np.random.default_rng(0)
    for colour in ((200, 130, 170), (120, 110, 180)):
        image = (np.array(colour) + rng.normal(0, 12, (128, 128, 1))).clip(0, 255).astype(np.uint8)
        mask = np.zeros((128, 128), bool)
        mask[44:84, 44:84] = True
        painted = restorer.restore(image, mask, mpp=0.5)[mask]
        assert np.abs(painted.mean(0) - colour).max() < 25 and painted.std(0).min() > 1


def test_weights_that_paint_no_numbers_are_refused():
    torch.manual_seed(0)
    denoiser = SwinDenoiser(TINY)
    torch.nn.init.constant_(denoiser.head[3].bias, float("nan"))
    image, mask = example()
    with pytest.raises(WeightsError, match="finite"):
        Restorer(Weights(denoiser, "broken", "0" * 64, {}), "cpu").restore(image, mask)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"mpp": 0.0}, {"mpp": float("inf")}, {"mpp": float("nan")},
                                   {"seed": -1}])
def test_wrong_numbers_are_refused(restorer, wrong):
    with pytest.raises(ValueError, match="must"):
        restorer.restore(*example(), **wrong)


@pytest.mark.parametrize("wrong", [
    {"keys": [(0, 0)]}, {"keys": [(0, 0), (-64, 0)]}, {"masks": [np.zeros((50, 70), bool)]},
    {"surroundings": [np.zeros((9, 3), np.uint8)] * 3}])
def test_lists_that_do_not_belong_together_are_refused(restorer, wrong):
    images, masks = zip(example(0), example(1), strict=True)
    with pytest.raises(ValueError, match=r"images but|negative"):
        restorer.restore_batch(**({"images": images, "masks": masks} | wrong))


def test_images_are_painted_in_the_colours_of_the_surroundings_they_are_given(restorer):
    """Those of their own known pixels by default; of none at all in the plain range."""
    image, mask = example(0, 64, 64)
    dark, none = image[~mask] // 8, np.zeros((0, 3), np.uint8)
    own, same, darker, plain = (restorer.restore_batch([image], [mask], surroundings=known)[0][mask]
                                for known in (None, [image[~mask]], [dark], [none]))
    assert np.abs(own.astype(int) - same).max() <= 1
    assert darker.mean() < own.mean() - 50 and abs(plain.mean() - 127) < 30


def test_a_line_of_pixels_and_a_mask_of_all_but_one_are_painted(restorer):
    line = np.zeros((1, 1500), bool)
    line[:, 700:] = True
    almost = np.ones((40, 40), bool)
    almost[0, 0] = False
    for mask in (line, almost):
        image = np.random.default_rng(0).integers(100, 200, (*mask.shape, 3), dtype=np.uint8)
        restored = restorer.restore(image, mask, steps=1)
        assert np.array_equal(restored[~mask], image[~mask]) and (restored[mask] != image[mask]).any()


@pytest.mark.parametrize("parent", ["he-small", {}, {"name": "he-small"}, {"name": "he-small", "sha256": 3}, [1]])
def test_weights_that_do_not_tell_their_parent_are_broken(tmp_path, parent):
    weights = Restorer.from_pretrained("he-small", device="cpu").weights
    save_weights(tmp_path, weights.denoiser.state_dict(), weights.denoiser.config, "theirs", {})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"parent": parent}))
    with pytest.raises(WeightsError, match="broken weights"):
        Restorer.from_pretrained(tmp_path, device="cpu")


def test_weights_of_a_hub_id_are_fetched_as_safetensors_alone(tmp_path, monkeypatch):
    weights = Restorer.from_pretrained("he-small", device="cpu").weights
    save_weights(tmp_path, weights.denoiser.state_dict(), weights.denoiser.config, "theirs", {})
    fetched = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda hub_id, **how: fetched.append((hub_id, how))
                        or str(tmp_path))
    assert Restorer.from_pretrained("owner/name", device="cpu").weights.name == "theirs"
    assert fetched == [("owner/name", {"allow_patterns": ["config.json", "model.safetensors"]})]


def test_a_hub_id_that_gives_nothing_is_one_clear_error(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="owner/no-such-name: neither a folder here") as caught:
        Restorer.from_pretrained("owner/no-such-name")
    assert "\n" not in str(caught.value)


def test_a_folder_without_the_model_says_what_is_missing(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"model\.safetensors is missing"):
        Restorer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"denoiser": {"dim": [8]}}')
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(WeightsError, match="unknown key 'dim'; did you mean 'dims'"):
        Restorer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"denoiser": {}, "walk": {"step": 3}}')
    with pytest.raises(WeightsError, match="unknown key 'step'; did you mean 'steps'"):
        Restorer.from_pretrained(tmp_path)


class OutOfMemoryAbove:
    """A denoiser for which the device has memory up to a number of canvases."""

    def __init__(self, denoiser, most):
        self.denoiser, self.most, self.batches = denoiser, most, []

    def __call__(self, x, *rest):
        self.batches.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError
        return self.denoiser(x, *rest)

    def __getattr__(self, name):
        return getattr(self.denoiser, name)


def test_a_cpu_evaluates_as_many_canvases_at_once_as_its_caches_hold(restorer, fp32, monkeypatch):
    examples = [example(seed) for seed in range(5)]
    images, masks = [i for i, _ in examples], [m for _, m in examples]
    whole = restorer.restore_batch(images, masks, keys=[(n,) for n in range(5)])
    monkeypatch.setattr("artifusion.restorer.CACHED_PX", 2 * 64 * 96)     # of 50 x 70 px, padded
    most = OutOfMemoryAbove(restorer.denoiser, most=2)
    monkeypatch.setattr(restorer, "denoiser", most)
    parted = restorer.restore_batch(images, masks, keys=[(n,) for n in range(5)])
    assert set(most.batches) == {1, 2}
    for one, other in zip(whole, parted, strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


def test_out_of_memory_halves_the_batch_and_goes_on(restorer, fp32, monkeypatch):
    examples = [example(seed) for seed in range(5)]
    images, masks = [i for i, _ in examples], [m for _, m in examples]
    whole = restorer.restore_batch(images, masks, keys=[(n,) for n in range(5)])
    small = OutOfMemoryAbove(restorer.denoiser, most=2)
    monkeypatch.setattr(restorer, "denoiser", small)
    halved = restorer.restore_batch(images, masks, keys=[(n,) for n in range(5)])
    assert small.batches[0] == 5 and {1, 2} <= set(small.batches)
    for one, other in zip(whole, halved, strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


def test_a_canvas_that_fits_into_no_memory_is_one_clear_error(restorer, monkeypatch):
    monkeypatch.setattr(restorer, "denoiser", OutOfMemoryAbove(restorer.denoiser, most=0))
    with pytest.raises(DeviceError, match=r"70 x 50 px; lower max_canvas_px"):
        restorer.restore(*example())


@pytest.mark.parametrize("config", [
    {"sampler": "dpm++"}, {"sampler": "ancestral"}, {"condition": "noised", "jump_length": 2, "jump_samples": 2}])
def test_every_sampler_and_condition_keeps_the_promises(restorer, config):
    """Kept pixels exact, the masked ones a function of the seed, whatever the batch."""
    other = Restorer(restorer.weights, "cpu", RestoreConfig(steps=4, **config))
    image, mask = example()
    painted = other.restore(image, mask, seed=1)
    assert np.array_equal(painted[~mask], image[~mask]) and (painted[mask] != image[mask]).any()
    assert np.array_equal(painted, other.restore(image, mask, seed=1))
    assert not np.array_equal(painted, other.restore(image, mask, seed=2))


def test_glass_does_not_count_beside_tissue():
    """The colours at the edge of a section are those of the tissue alone; a canvas of glass keeps the glass's."""
    rng = np.random.default_rng(0)
    image = np.full((1, 64, 64, 3), 245, np.uint8)
    glass = Frame.of_known(tensor_from_images(image), torch.ones(1, 1, 64, 64))
    image[:, :, :16] = rng.integers(-20, 20, (1, 64, 16, 3)) + np.array([200, 130, 170])
    pixels, known = tensor_from_images(image), torch.ones(1, 1, 64, 64)
    edge = Frame.of_known(pixels, known)
    assert torch.allclose(edge.mean, pixels[..., :16].mean((2, 3), keepdim=True), atol=1e-5)
    assert torch.allclose(glass.mean, torch.full((1, 3, 1, 1), 245 / 127.5 - 1), atol=1e-5)


def test_a_canvas_larger_than_a_view_is_painted_without_a_joint(restorer, monkeypatch):
    """Seen in views or whole, the same noise becomes nearly the same picture, and no line stands out."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (128, 320, 3), dtype=np.uint8)
    mask = np.zeros((128, 320), bool)
    mask[32:96, 32:288] = True
    monkeypatch.setattr("artifusion.restorer.VIEW_PX", 128)
    monkeypatch.setattr("artifusion.restorer.OVERLAP_PX", 32)
    painted = restorer.restore(image, mask).astype(float)
    assert np.array_equal(painted[~mask], image[~mask])
    steps = np.abs(np.diff(painted[32:96, 32:288], axis=1)).mean((0, 2))
    assert steps.max() < 1.5 * steps.mean()


def test_nothing_is_painted_darker_or_lighter_than_the_tissue_around_it(restorer):
    rng = np.random.default_rng(0)
    image = rng.integers(90, 180, (64, 64, 3), dtype=np.uint8)
    image[0, 0], image[0, 1] = 0, 255                                    # two specks are no tissue
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    painted = restorer.restore(image, mask)[mask]
    assert painted.min() >= 90 and painted.max() <= 179 and painted.std() > 1


def test_an_estimate_of_a_level_is_painted_from_there(restorer):
    image, mask = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    calls = []
    hook = restorer.denoiser.register_forward_hook(lambda module, inputs, output: calls.append(float(inputs[1].max())))
    light, dark = (np.where(mask[..., None], np.uint8(grey), image) for grey in (200, 60))
    low = np.full(mask.shape, 0.3)
    (lighter,) = restorer.restore_batch([light], [mask], levels=[low], steps=10)
    hook.remove()
    assert abs(calls[0] - 0.3) < 0.1 and calls == sorted(calls, reverse=True)     # the nearest stop of the walk
    assert np.array_equal(lighter[~mask], image[~mask])
    (darker,) = restorer.restore_batch([dark], [mask], levels=[low], steps=10)
    assert lighter[mask].mean() > darker[mask].mean()                      # it begins from the estimate
    (one,), (other,) = (restorer.restore_batch([each], [mask], steps=2) for each in (light, dark))
    assert np.array_equal(one[mask], other[mask])                          # which at level 1 is never seen


def test_a_pixel_of_level_0_is_known_and_levels_mix_in_one_image(restorer):
    image, mask = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), np.zeros((64, 64), bool)
    mask[10:50, 10:50] = True
    levels = np.ones(mask.shape)
    levels[20:40, 20:40], levels[20:40, 40:45] = 0, 0.4
    (painted,) = restorer.restore_batch([image], [mask], levels=[levels], steps=3)
    assert np.array_equal(painted[20:40, 20:40], image[20:40, 20:40])
    assert (painted[10:20] != image[10:20]).any() and np.array_equal(painted[~mask], image[~mask])
    both = restorer.restore_batch([image, image], [mask, mask], levels=[levels, np.full(mask.shape, 0.4)], steps=3)
    assert np.array_equal(both[0], painted)                                # whatever shares the batch


@pytest.mark.parametrize("levels", [np.full((64, 64), 1.1), np.full((64, 64), -0.1), np.ones((32, 64))])
def test_levels_that_do_not_fit_are_refused(restorer, levels):
    mask = np.zeros((64, 64), bool)
    mask[:9] = True
    with pytest.raises(ValueError, match="levels"):
        restorer.restore_batch([np.zeros((64, 64, 3), np.uint8)], [mask], levels=[levels])


def test_the_number_of_threads_changes_no_byte():
    """Batches of one canvas and of three, shared among 1 to 4 threads in every way that they split."""
    if threads_tell(torch.device("cpu")):
        pytest.skip("here it does, and the job of a restoration holds the number: see the next test")
    restorer = Restorer.from_pretrained("he-small", device="cpu")
    rng, mask = np.random.default_rng(0), np.zeros((128, 160), bool)
    mask[40:90, 50:100] = True
    images = [rng.integers(100, 220, (128, 160, 3), dtype=np.uint8) for _ in range(3)]
    threads, painted = torch.get_num_threads(), {}
    try:
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            assert restorer.threads == {"threads": count} and "threads" not in restorer.machine
            painted[count] = restorer.restore_batch(images, [mask] * 3, steps=2) + restorer.restore_batch(
                images[:1], [mask], steps=2, surroundings=[images[0][~mask]])
    finally:
        torch.set_num_threads(threads)
    for count in (2, 3, 4):
        assert all(map(np.array_equal, painted[1], painted[count])), count


@pytest.mark.parametrize(("dtype", "amx", "told"), [
    (torch.float32, False, True), (torch.bfloat16, True, True), (torch.bfloat16, False, False)])
def test_the_number_of_threads_is_part_of_the_machine_where_it_changes_bytes(monkeypatch, restorer, dtype, amx, told):
    monkeypatch.setattr("artifusion.device.fast_dtype", lambda device: dtype)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert ("threads" in restorer.machine) == told


def test_sums_and_norms_do_not_depend_on_the_number_of_threads():
    torch.manual_seed(0)
    norm, threads, found = ChannelNorm(40), torch.get_num_threads(), {}
    norm.requires_grad_(False).weight.uniform_(0.5, 2)
    x = (torch.randn(1, 40, 150, 130) * 3 + 1).contiguous(memory_format=torch.channels_last)
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            found[count] = norm(x), norm(x.bfloat16()), total(x), total(x[:, :1])
    finally:
        torch.set_num_threads(threads)
    for count in (2, 3, 7):
        assert all(map(torch.equal, found[1], found[count])), count
    expected = torch.nn.functional.group_norm(x.double(), 1, norm.weight.double(), norm.bias.double())
    assert (found[1][0] - expected).abs().max() < 1e-5 and (found[1][1] - expected).abs().max() < 0.1
    torch.testing.assert_close(found[1][2][..., 0, 0], x.sum((2, 3)), rtol=1e-4, atol=0.5)
