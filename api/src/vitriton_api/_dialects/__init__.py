"""The forms in which requests are written, one file each, and the one list of inputs that they become."""
