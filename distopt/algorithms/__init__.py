"""The papers' recursions, one file each, found by file name."""
