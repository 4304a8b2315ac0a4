"""Export a model version for use outside of the platform: in a browser, or in ONNX Runtime on a device."""
