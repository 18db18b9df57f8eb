"""Graph families, one file each, found by file name."""
