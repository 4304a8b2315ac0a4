"""Feature engines, online store and Feast, with their jobs."""
