"""The rollout of a repository that changes while it is served."""
