"""The compiled, the Arrow and the Spark form of the window features."""
