"""A model repository: the text files of a deployment, and their installation."""
