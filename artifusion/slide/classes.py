"""The one vocabulary of artifacts: its names, their ids in class masks (0 = keep) and their colours."""

from __future__ import annotations

CLASSES: dict[str, int] = {"fold": 1, "bubble": 2, "pen": 3, "blur": 4, "dark": 5, "dust": 6, "other": 7}
COLORS: dict[str, tuple[int, int, int]] = {
    "fold": (233, 30, 99), "bubble": (33, 150, 243), "pen": (76, 175, 80), "blur": (156, 39, 176),
    "dark": (121, 85, 72), "dust": (255, 152, 0), "other": (96, 125, 139),
}
