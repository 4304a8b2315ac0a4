"""Drift, concept drift, skew, consistency, and the metrics that Prometheus scrapes."""
