"""ONNX Runtime, the compiled tree kernel, nightly and file scoring."""
