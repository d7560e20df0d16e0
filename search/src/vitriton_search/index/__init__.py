"""Brings a store up to date with files, URLs and outputs of `vitriton embed`."""
