"""Scores card transactions for fraud while the customer waits, and keeps the model legitimate."""
