"""The algorithms in a training script."""
