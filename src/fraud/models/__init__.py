"""The ladder: one module per level. Each fits a native model and states the same function as an ONNX graph."""
