"""Qdrant as a store: a server, or its engine in this process."""
