"""Our own HTTP connections, with limits on time and size, which can refuse private addresses."""
