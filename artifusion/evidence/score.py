"""How well a hole was filled: a score from 0 to 1 and a verdict in a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from artifusion.evidence.donors import DonorFit

Verdict = Literal["good", "doubtful", "unrestorable"]
# Least scores. One observer looked at 132 holes of the validation split (benchmarks/quality/donors.py --imagine: seed 0
# with --holes 4, all; seeds 1 and 2 with --holes 5, those below 0.5, known to be so), scores hidden. Plainly wrong were
# 8 of 10 below 0.2, 2 of 9 up to 0.3, 2 of 20 up to 0.4, 3 of 43 up to 0.5, none of 50 above; ten more of seed 0
# were borderline, nine of them above 0.3.
GOOD, DOUBTFUL = 0.3, 0.2
HALF = 250.0                # misfit that scores 0.5; half of the holes in the training folders stay below 120
FEW, MANY = 0.1, 0.5        # share of a region that bad pieces may cover


def score_of(fit: DonorFit) -> float:
    """0 (nothing fits) to 1 (as if it had grown there).

    From what tells how far a fill is from the truth on holes of the training folders: its inside against what was
    imagined, its tone, its texture (rank correlation with the error of colour - 0.64). How well its outline fits
    tells less: where tissue varies much everything fits ill, and the eye does not mind.
    """
    return 1 / (1 + (fit.inside + 2 * fit.tone + 6 * fit.texture) / HALF)


def verdict_of(scores: Sequence[float], areas_px: Sequence[int]) -> tuple[float, Verdict]:
    """Score and verdict of a region from those of its pieces: the mean by area; good pieces do not make up for bad."""
    whole = sum(areas_px)
    score = sum(score * area for score, area in zip(scores, areas_px, strict=True)) / whole
    bad = sum(area for each, area in zip(scores, areas_px, strict=True) if each < DOUBTFUL) / whole
    if bad > MANY:
        return score, "unrestorable"
    return score, "good" if score >= GOOD and bad <= FEW else "doubtful"
