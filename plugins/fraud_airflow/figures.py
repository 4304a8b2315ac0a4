"""Numbers as people read them: in the log of a task, and in the question of an approval."""


def figure(value: float) -> str:
    """A count with separators (20,828), another number with the digits that matter; an exponent below 0.001 alone."""
    if not abs(value) < float("inf"):
        return str(value)
    if float(value).is_integer():
        return f"{value:,.0f}"
    size = abs(value)
    return f"{value:.1e}" if size < 1e-3 else f"{value:,.3f}" if size < 10 else f"{value:,.1f}"
