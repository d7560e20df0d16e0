"""A repository that changes while it is served."""
