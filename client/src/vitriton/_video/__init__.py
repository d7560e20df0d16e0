"""From the file of a video to its frames."""
