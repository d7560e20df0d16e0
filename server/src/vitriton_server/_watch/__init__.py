"""Whether a tritonserver and its models still answer."""
