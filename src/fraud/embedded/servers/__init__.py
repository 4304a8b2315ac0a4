"""The servers of the embedded stack: how each is configured and started."""
