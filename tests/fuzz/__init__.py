"""Broken inputs by the thousand: `python -m fuzz` in tests/ makes them, runs the commands on them and judges."""
