"""The HTTP interface: requests, schema, documentation page, keys and limits."""
