"""Names become objects."""
