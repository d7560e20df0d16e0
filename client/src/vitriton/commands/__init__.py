"""The sub-commands of `vitriton` that come with the client."""
