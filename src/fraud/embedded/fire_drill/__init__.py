"""Inject a fault for each alert, and check that the alert fires and resolves."""
