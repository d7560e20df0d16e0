"""From an image processor of transformers to the steps of preprocessing."""
