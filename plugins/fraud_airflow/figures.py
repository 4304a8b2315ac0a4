"""Number formatting for task logs and approval forms."""


def figure(value: float) -> str:
    """An integer with thousands separators (20,828); other numbers with 1 or 3 decimals, or an exponent below 0.001."""
    if not abs(value) < float("inf"):
        return str(value)
    if float(value).is_integer():
        return f"{value:,.0f}"
    size = abs(value)
    return f"{value:.1e}" if size < 1e-3 else f"{value:,.3f}" if size < 10 else f"{value:,.1f}"
