"""From a torch module to ONNX graphs, rewritten and quantized."""
