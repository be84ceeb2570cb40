"""Artifacts painted on clean slides, for trials whose truth is known."""
