"""The online store: connection, histories, answers kept for retries."""
