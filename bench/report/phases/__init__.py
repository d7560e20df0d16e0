"""What the report measures beside the rounds."""
