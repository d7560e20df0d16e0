"""The commands of `vitriton search`: options, work, and what is said of it."""
