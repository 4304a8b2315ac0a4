"""The decision path: history, inference, answer, record."""
