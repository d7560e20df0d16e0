"""What the machine allows, and what memory a server takes."""
