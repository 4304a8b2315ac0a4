"""Simulated transactions for demos and tests. Their figures do not apply to production."""
