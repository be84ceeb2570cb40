"""How well a hole was filled: a score from 0 to 1 and a verdict in a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from artifusion.evidence.donors import Fit

Verdict = Literal["good", "doubtful", "unrestorable"]
GOOD, DOUBTFUL = 0.5, 0.2


def score_of(fit: Fit | None, spread: float) -> float:
    """0 (nothing fits) to 1 (fits as if it had grown there).

    The difference of the surroundings over that of unrelated pixels of their own kind, whose spread (mean squared
    distance from their mean) is given: as well as chance within the same tissue is 0.5 and counts as good.
    """
    if fit is None:
        return 0.0
    chance = 2 * spread + FLOOR
    return float(1 / (1 + ((fit.ring + fit.inside / 2) / chance) ** 2))


FLOOR = 60.0                # squared grey levels: noise and compression, in glass too


def verdict_of(scores: Sequence[float], areas_px: Sequence[int]) -> tuple[float, Verdict]:
    """Score and verdict of a region from those of its pieces: the mean by area; bad pieces are not made up for."""
    score = sum(score * area for score, area in zip(scores, areas_px, strict=True)) / sum(areas_px)
    bad = sum(area for each, area in zip(scores, areas_px, strict=True) if each < DOUBTFUL) / sum(areas_px)
    if not any(scores) or bad > 0.5:
        return score, "unrestorable"
    return score, "good" if score >= GOOD and bad < 0.1 else "doubtful"
