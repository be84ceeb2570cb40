import pytest
import torch

from artifusion.config import DenoiserConfig, TrainConfig, load_config
from artifusion.diffusion.denoiser import PatchLevels, SwinDenoiser, fourier
from artifusion.diffusion.swin import SwinBlock, shift_mask, unwindow, window

TINY = DenoiserConfig(
    pixel_dim=8, dims=(16, 32), heads=(2, 2), depths=(2, 2), window_sizes=(4, 4), time_dim=16
)


def awake(config=TINY):
    """A denoiser whose last layer is not zero."""
    torch.manual_seed(0)
    denoiser = SwinDenoiser(config).eval()
    torch.nn.init.normal_(denoiser.head[3].weight, std=0.1)
    return denoiser


def inputs(height=64, width=64, batch=2):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, height, width, generator=generator)
    hole = torch.zeros(batch, 1, height, width)
    hole[..., height // 4 : -height // 4, width // 4 : -width // 4] = 1
    return x, torch.full((batch,), 0.5), hole, torch.full((batch,), 0.5)


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 4), (16, 8, 4), (12, 24, 6)])
def test_unwindow_is_the_inverse_of_window(height, width, size):
    x = torch.randn(2, height, width, 3)
    assert torch.equal(unwindow(window(x, size), size, height), x)


def test_shift_mask_equals_timms(timm_swin):
    block = timm_swin.SwinTransformerBlock(8, (16, 24), num_heads=2, window_size=8, shift_size=4)
    ours = shift_mask(16, 24, 8, 4, torch.device("cpu"))
    assert torch.equal(ours, block.attn_mask == 0)


@pytest.mark.parametrize("shift", [0, 4])
def test_block_with_its_token_masked_away_equals_timms_with_the_same_weights(timm_swin, shift):
    torch.manual_seed(0)
    theirs = timm_swin.SwinTransformerBlock(32, (16, 16), num_heads=4, window_size=8, shift_size=shift, mlp_ratio=2.0)
    theirs.eval()
    ours = SwinBlock(32, 4, 8, shift, mlp_ratio=2.0, mlp_conv=False, time_dim=16).eval()
    missing, _ = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert {name.split(".")[0] for name in missing} == {"time_token"}
    x = torch.randn(2, 16, 16, 32)
    assert torch.allclose(ours(x, None), theirs(x), atol=1e-5)


def test_the_noise_level_reaches_every_pixel_of_the_hole():
    denoiser = awake()
    x, _, hole, spacing = inputs()
    with torch.no_grad():
        low = denoiser(x, torch.full((2,), 0.1), hole, spacing)
        high = denoiser(x, torch.full((2,), 0.9), hole, spacing)
    assert ((low - high).abs() * hole).sum() / hole.sum() > 0.01


def test_the_embedding_of_a_window_is_that_of_its_hole():
    levels = PatchLevels(torch.tensor([[[0.0], [5.0]]]), torch.zeros(1, 4, 4, 2), torch.zeros(1, 4, 4, 1))
    levels.which[..., 0] = 1
    levels.which[:, 1, 1] = torch.tensor([0.0, 1.0])
    levels.share[:, 1, 1] = 1
    assert levels.of_windows(2, 0)[0, :, 0].tolist() == pytest.approx([5, 0, 0, 0], abs=0.1)
    assert levels.of_windows(2, 1)[0, :, 0].tolist() == pytest.approx([5, 0, 0, 0], abs=0.1)
    assert levels.of_windows(4, 0)[0, :, 0].tolist() == pytest.approx([5], abs=0.1)


def test_every_patch_has_the_highest_level_of_its_pixels():
    denoiser = awake()
    levels = torch.rand(2, 1, 64, 64).round(decimals=1)
    levels[1] = 0.3                                                       # few levels on one canvas, many on the other
    spacing = torch.tensor([0.25, 1.0])
    scale = fourier(torch.log2(spacing / 0.5), 16, 100.0)[:, None, None]  # (B, 1, 1, T)
    with torch.no_grad():
        for n, found in enumerate(denoiser._patch_levels(levels, (levels > 0).float(), spacing)):
            highest = fourier(torch.nn.functional.max_pool2d(levels, 4 * 2**n)[:, 0], 16, 1000.0)
            expected = denoiser.time(torch.cat([highest, scale.expand_as(highest)], -1))  # (B, h, w, T)
            assert torch.allclose(torch.einsum("bhwk,bkt->bhwt", found.which, found.embedding), expected, atol=1e-5)


def test_masks_made_while_painting_serve_training():
    denoiser = awake()
    with torch.inference_mode():
        denoiser(*inputs(96, 64))
    denoiser(*inputs(96, 64)).square().mean().backward()
    table = denoiser.down_stages[0].blocks[1].attn.relative_position_bias_table
    assert table.grad is not None and table.grad.abs().sum() > 0


def test_the_scale_changes_the_prediction():
    denoiser = awake()
    x, level, hole, spacing = inputs()
    with torch.no_grad():
        assert not torch.allclose(denoiser(x, level, hole, spacing), denoiser(x, level, hole, spacing * 4), atol=1e-4)


def test_one_level_per_canvas_equals_the_map_of_it():
    denoiser = awake()
    x, level, hole, spacing = inputs()
    with torch.no_grad():
        assert torch.equal(denoiser(x, level, hole, spacing), denoiser(x, hole * 0.5, hole, spacing))


def test_any_canvas_whose_sides_are_multiples():
    denoiser = awake()
    side = denoiser.multiple
    assert denoiser(*inputs(3 * side, side)).shape[2:] == (3 * side, side)
    with pytest.raises(ValueError, match="multiples"):
        denoiser(*inputs(side + 4, side))


def test_the_default_stays_within_its_budget():
    from torch.utils.flop_counter import FlopCounterMode

    denoiser = SwinDenoiser(DenoiserConfig())
    assert sum(p.numel() for p in denoiser.parameters()) <= 8e6
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        denoiser(*inputs(256, 256, batch=1))
    assert counter.get_total_flops() <= 8e9


def test_the_published_network_has_its_published_size():
    """29.67 million parameters, give or take the scale embedding and the levels per patch."""
    config = load_config(TrainConfig, "train", "paper").denoiser
    denoiser = SwinDenoiser(config)
    assert sum(p.numel() for p in denoiser.parameters()) == pytest.approx(29.67e6, rel=0.01)
    assert denoiser.multiple == 256 and (config.schedule, config.prediction) == ("linear", "noise")


def test_a_denoiser_of_patches_alone_predicts_at_pixel_resolution():
    denoiser = SwinDenoiser(TINY.model_copy(update={"pixel_dim": 0})).eval()
    assert denoiser(*inputs()).abs().max() == 0                          # nothing is said before training
    torch.nn.init.normal_(denoiser.unembed[1].weight, std=0.1)
    with torch.no_grad():
        out = denoiser(*inputs())
    assert out.shape == (2, 3, 64, 64) and out.std() > 0.01


def test_the_base_model_has_25_to_40_million_parameters_and_learns_from_the_data_of_the_small_one():
    config = load_config(TrainConfig, "train", "he-base")
    assert config.data == load_config(TrainConfig, "train", "he-small").data
    denoiser = SwinDenoiser(config.denoiser).eval()
    assert 25e6 <= sum(p.numel() for p in denoiser.parameters()) <= 40e6
    with torch.no_grad():
        assert denoiser(*inputs(batch=1)).shape == (1, 3, 64, 64)
