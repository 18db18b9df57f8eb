"""Runs on disk: results, checkpoints, folders, sweeps."""
