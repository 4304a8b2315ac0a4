"""The servers of the embedded stack: configuration and start of each."""
