"""Measures a served model beside bare ONNX Runtime on the same graph."""
