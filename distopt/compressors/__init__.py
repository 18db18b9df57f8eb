"""Compressors: pure, row by row, with a packed payload. One file each. What packs bits is here for compressors of one's own, too."""

from __future__ import annotations

from distopt.compressors._packed import flags, planes, signs, size, unplaned, width_of

__all__ = ["flags", "planes", "signs", "size", "unplaned", "width_of"]
