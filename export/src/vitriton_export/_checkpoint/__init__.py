"""A checkpoint: where it is, what its files say, which architecture it has, and its weights."""
