"""One load on a server, measured by perf_analyzer and by Triton's statistics."""
