"""The embedded stack: every service of the platform as local processes, started and stopped as one."""
