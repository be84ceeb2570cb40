"""How well a hole was filled: a score from 0 to 1 and a verdict in a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Verdict = Literal["good", "doubtful", "unrestorable"]
GOOD, DOUBTFUL = 0.4, 0.2   # least scores
NOISE = 60.0                # squared grey levels: noise and compression, in glass too
FEW, MANY = 0.1, 0.5        # share of a region that bad pieces may cover


def score_of(difference: float, spread: float) -> float:
    """0 (nothing fits) to 1 (as if it had grown there).

    difference: mean squared distance of what a donor brings to what should be there. spread: mean squared distance of
    the pixels that should be there from their mean. Unrelated pixels of the same tissue differ by twice their spread:
    this is what a donor of the right kind can reach where nothing continues, and scores 0.5.
    """
    return 1 / (1 + (difference / (2 * spread + NOISE)) ** 2)


def verdict_of(scores: Sequence[float], areas_px: Sequence[int]) -> tuple[float, Verdict]:
    """Score and verdict of a region from those of its pieces: the mean by area; good pieces do not make up for bad."""
    whole = sum(areas_px)
    score = sum(score * area for score, area in zip(scores, areas_px, strict=True)) / whole
    bad = sum(area for each, area in zip(scores, areas_px, strict=True) if each < DOUBTFUL) / whole
    if bad > MANY:
        return score, "unrestorable"
    return score, "good" if score >= GOOD and bad <= FEW else "doubtful"
