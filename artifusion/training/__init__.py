"""Slides or images -> clean tiles -> crops -> loss -> averaged weights."""
