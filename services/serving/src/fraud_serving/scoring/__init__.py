"""From a transaction to its decision: online store, features, model."""
