"""The commands `vitriton export`, `vitriton verify` and `vitriton remove`."""
