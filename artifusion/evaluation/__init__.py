"""Evaluation: methods x measures on tiles whose truth is known. `run.evaluate` is the door; see docs/evaluation.md."""
