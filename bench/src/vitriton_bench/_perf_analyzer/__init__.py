"""NVIDIA's load generator for Triton."""
