"""The checkout path: one request in, one decision out, with the version that made it."""
