"""What a model on a server promises, and what its failures mean for a caller."""
