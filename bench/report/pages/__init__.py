"""Tables, targets, page and pictures: all of them made of the report's document."""
