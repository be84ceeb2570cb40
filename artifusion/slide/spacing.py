"""Scales in um per pixel: which may be given, which a file is believed, and how they are told."""

from __future__ import annotations

SPACINGS_UM = (0.01, 100)       # that may be given; config.SpacingUm holds settings to the same
PLAUSIBLE_MPP = (0.1, 4.0)      # of level 0, that a file is believed


def check_spacing(mpp: float | None) -> None:
    """Raises ValueError for um per pixel, where given, that no slide has."""
    if mpp is not None and not SPACINGS_UM[0] <= mpp <= SPACINGS_UM[1]:
        raise ValueError(f"mpp must lie in {SPACINGS_UM[0]:g} to {SPACINGS_UM[1]:g} um per pixel, got {mpp}")


def is_plausible(mpp_xy: tuple[float, float]) -> bool:
    """Return whether a file that tells this scale is believed."""
    return all(PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1] for mpp in mpp_xy)


def per_axis(mpp_xy: tuple[float, float]) -> str:
    """Return a scale in words: one number, or two where the axes differ."""
    x, y = (f"{mpp:.4g}" for mpp in mpp_xy)
    return x if x == y else f"{x} x {y}"
