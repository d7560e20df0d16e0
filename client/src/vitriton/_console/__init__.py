"""The parts that all commands share: signals, progress, server options, and how failures are shown."""
