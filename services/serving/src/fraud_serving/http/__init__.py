"""The HTTP interface: connection, endpoints, OpenAPI document, documentation page, rate limit."""
