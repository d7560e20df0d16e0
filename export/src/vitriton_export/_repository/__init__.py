"""A model repository: what is deployed, as text files, and how they are put into place."""
