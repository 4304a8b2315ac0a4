"""Engines for window features: compiled kernel, Arrow tables, Spark."""
