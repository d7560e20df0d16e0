"""One tritonserver: its installation, start, log and end."""
