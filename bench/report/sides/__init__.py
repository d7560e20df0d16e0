"""The sides of the comparison."""
