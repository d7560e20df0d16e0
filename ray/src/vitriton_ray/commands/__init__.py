"""The commands: `vitriton embed --engine ray` and `vitriton bench --bulk`."""
