"""The models of a server, their contracts, and the errors for a server's failures."""
