"""The ladder: one module per level, with its native model and its ONNX graph."""
