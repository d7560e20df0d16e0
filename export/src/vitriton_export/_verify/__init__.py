"""The parity report of what is deployed."""
