"""Where a slide shows artifacts: slide -> signs at low magnification -> findings -> mask."""
