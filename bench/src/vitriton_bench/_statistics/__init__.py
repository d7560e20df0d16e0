"""Triton's statistics, and where the time of a request goes."""
