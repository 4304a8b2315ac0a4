"""The served model version: registry, verification, local copy, alias, Shapley values."""
