"""The watch over a tritonserver and its models: whether they still answer."""
