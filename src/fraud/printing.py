"""Format results of jobs as text for a terminal: numbers, aligned names and tables."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Final

_LONG: Final = 6
"""A longer list of plain values is printed as its first value, its last value and its length."""


def figure(value: float) -> str:
    """A number for a table: up to four significant digits, an exponent only below 0.001, `none` if not finite."""
    size = abs(value)
    if value != value or size == float("inf"):  # noqa: PLR0124 - NaN alone differs from itself
        return "none"
    if value == 0 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.1e}" if size < 1e-3 else f"{value:,.3f}" if size < 10 else f"{value:,.1f}"


def duration(span: timedelta) -> str:
    """A time span in its largest unit, rounded down: `5 s`, `14 min`, `3 h`, `12 d`. Hours up to two days."""
    seconds = max(int(span.total_seconds()), 0)
    for unit, size, limit in (("s", 1, 60), ("min", 60, 3_600), ("h", 3_600, 172_800)):
        if seconds < limit:
            return f"{seconds // size} {unit}"
    return f"{seconds // 86_400:,} d"


def interval(values: Sequence[float]) -> str:
    """A value with its interval: `0.938 (0.921 to 0.952)`."""
    value, low, high = values
    return f"{figure(value)} ({figure(low)} to {figure(high)})"


def values(named: Mapping[str, object]) -> str:
    """One line per name. Nested values follow below their name, as a table where they have several columns."""
    width = max((len(name) for name, value in named.items() if not _nested(value)), default=0)
    lines: list[str] = []
    for name, value in named.items():
        if _nested(value):
            lines += [name, *(f"  {line}" for line in _lines(value))]
        else:
            lines.append(f"{name:<{width}}  {cell(value)}".rstrip())
    return "\n".join(lines)


def table(rows: Iterable[Mapping[str, object]]) -> list[str]:
    """Lines of a table with a heading. The columns are the keys of the rows; numbers are right-aligned."""
    found = list(rows)
    columns = list(dict.fromkeys(name for row in found for name in row))
    cells = [[cell(row.get(name)) for name in columns] for row in found]
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    right = [all(_number(row.get(name)) for row in found) for name in columns]
    return [
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in (columns, *cells)
    ]


def cell(value: object) -> str:
    """One value on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return figure(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {cell(part)}" for name, part in value.items()) or "-"
    if isinstance(value, list | tuple):
        short = f"{cell(value[0])} .. {cell(value[-1])} ({len(value):,})" if len(value) > _LONG else ""
        return short or ", ".join(map(cell, value)) or "-"
    return "-" if value is None else str(value)


def _lines(value: object) -> list[str]:
    if isinstance(value, Mapping):
        if all(isinstance(part, Mapping) for part in value.values()):
            return table({"": name, **part} for name, part in value.items())
        return values(value).splitlines()
    return table(value) if isinstance(value, list | tuple) else []


def _nested(value: object) -> bool:
    """Whether a value is printed on separate lines."""
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(part, Mapping) for part in value)


def _number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
