"""The command `vitriton embed`."""
