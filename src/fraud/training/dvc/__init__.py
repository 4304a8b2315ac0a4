"""Snapshots and models by hash, for DVC."""
