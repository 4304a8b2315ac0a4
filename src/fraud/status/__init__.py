"""The state of the platform in one report: what serves, how fresh the data is, what is wrong, what changed."""
