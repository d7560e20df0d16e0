"""A session on a GPU machine: everything that only such a machine can show, in minutes."""
