"""Compressors: pure, row by row, with a packed payload. One file each."""
