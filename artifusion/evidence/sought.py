"""What a donor must fit: a hole's surroundings and what was imagined inside, at every scale that finding looks at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
