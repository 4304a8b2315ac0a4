"""Storage of snapshots and models in a DVC remote."""
