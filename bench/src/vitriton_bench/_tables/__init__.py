"""The measurements as tables."""
