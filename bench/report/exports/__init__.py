"""The checkpoints and exports of the comparison."""
