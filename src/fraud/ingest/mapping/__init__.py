"""Mappings: how the columns of a source become the contract, and their application to rows."""
