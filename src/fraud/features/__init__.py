"""Feature engines, the online store, Feast, and their jobs."""
