"""The phases of the report."""
