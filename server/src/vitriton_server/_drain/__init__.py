"""The shutdown of a tritonserver that still has requests in flight."""
