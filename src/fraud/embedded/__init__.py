"""The embedded stack: every service of the platform as a local process, started and stopped together."""
