"""Finds data that is older than its retention, and the job that removes it."""
