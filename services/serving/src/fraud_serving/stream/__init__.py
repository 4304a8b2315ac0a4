"""Scores the transactions of a Kafka topic with the parts of serving."""
