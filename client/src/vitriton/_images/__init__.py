"""What a caller may give as an image, and how its bytes are had."""
