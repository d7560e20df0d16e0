"""The checkpoints and exports that are compared."""
