"""The ladder: one module per level, each with its native model and its ONNX graph."""
