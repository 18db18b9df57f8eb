"""A problem and its rounds."""
