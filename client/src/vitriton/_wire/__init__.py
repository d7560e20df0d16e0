"""The ways to a server: addresses, connections, and Triton's protocols over gRPC and HTTP."""
