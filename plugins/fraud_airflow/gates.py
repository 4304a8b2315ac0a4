"""Gates as text, for a task's log and for the question to a person."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def figure(value: float | None) -> str:
    """A measured value: counts written out, other numbers with four digits; None was not measured."""
    if value is None:
        return "not measured"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 10_000 else f"{value:,.4g}"


def gate_lines(gates: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line per gate, those that failed first."""
    for gate in sorted(gates, key=lambda gate: bool(gate["passed"])):
        verdict = "passed" if gate["passed"] else "FAILED"
        required = f"{gate['asked']} {figure(gate['threshold'])}"
        why = gate["detail"] or gate["why"]
        yield f"{verdict}  {gate['name']}: {figure(gate['value'])}, required {required}. {why}"
