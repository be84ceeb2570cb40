"""Slide + mask -> regions -> canvases -> patches -> file."""
