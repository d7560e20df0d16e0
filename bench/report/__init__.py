"""The project's own comparison: served models beside transformers, LitServe, ONNX Runtime and the machine's limits."""
