"""The pure domain: contract, features, gates, costs. No I/O, nothing of ours imported, numpy and pydantic only."""
