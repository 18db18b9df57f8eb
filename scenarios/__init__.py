"""Time-varying costs, one file each, found by file name."""
