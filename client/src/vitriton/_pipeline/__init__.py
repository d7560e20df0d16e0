"""The drop-in for transformers' pipeline."""
