"""Metrics, costs, comparisons and gates: pure functions over arrays."""
