"""Triton's statistics, and the split of a request's time."""
