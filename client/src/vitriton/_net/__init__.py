"""HTTP connections of our own: with limits of time and size, and without private addresses where they are refused."""
