"""Local rules that turn a (tracked) gradient into a step direction, one file each, found by file name."""
