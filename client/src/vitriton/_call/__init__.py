"""One call: what is read, sent, sent again and given up, and what all calls of a client share."""
