"""Compressed segments (TIFF tiles): decoded, encoded, and spliced block by block."""
