"""The drop-in replacement for transformers' pipeline."""
