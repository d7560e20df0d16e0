"""One tritonserver: found, started, read, ended."""
