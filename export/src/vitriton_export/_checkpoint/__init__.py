"""A checkpoint: its location, files, architecture and weights."""
