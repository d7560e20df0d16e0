"""What exporter, server and client agree on about a model repository."""
