"""One call: reading, sending, retrying and cancelling; and what all calls of a client share."""
