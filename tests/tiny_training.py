"""A run that takes seconds."""

from artifusion.config import DataConfig, DenoiserConfig, TrainConfig

TINY = DenoiserConfig(pixel_dim=8, dims=(16, 32), heads=(2, 2), depths=(1, 1), window_sizes=(4, 4), time_dim=16)


def tiny_config(**changes):
    base = TrainConfig(
        name="tiny", denoiser=TINY, data=DataConfig(crop_px=32, validation=("*/held.png",)), crops=32, batch_size=4,
        warmup_crops=8,
    )
    return base.model_copy(update=changes)
