"""The parity report of a deployed model."""
