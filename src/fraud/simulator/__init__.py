"""The transaction world that demos and tests run on. Never a source of production expectations."""
