"""What a donor must fit: a hole's surroundings and what was imagined inside, at every scale that finding looks at."""

from __future__ import annotations

