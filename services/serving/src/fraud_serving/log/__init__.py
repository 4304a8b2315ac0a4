"""The prediction log and the access log."""
