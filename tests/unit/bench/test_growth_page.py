"""docs/scale.md has the tables that the measured costs give, and every cost names keys that a bench has written."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def growth() -> ModuleType:
    """`tests/bench/growth.py`, which imports its neighbour by name as a script does."""
    spec = importlib.util.spec_from_file_location("growth", BENCH / "growth.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        patch.setitem(sys.modules, "growth", module)
        spec.loader.exec_module(module)
    return module


def test_every_cost_has_the_values_of_its_benches(growth: ModuleType) -> None:
    measured = growth.measured()
    assert set(measured) == {key for source in growth.SOURCES.values() for key in source.keys}
    assert all(value > 0 for value in measured.values())
    assert all((BENCH / f"{key.partition(':')[0].partition('-')[0]}.py").is_file() for key in measured)


def test_the_page_has_the_tables_of_the_bench(growth: ModuleType) -> None:
    text = growth.PAGE.read_text()
    assert text.split(growth.BEGIN)[1].split(growth.END)[0].strip() == growth.page().strip()


def test_more_payments_need_at_least_as_much_of_everything(growth: ModuleType) -> None:
    costs, given = growth.costs_of(growth.measured()), growth.Assumptions()
    small, large = (growth.needs(growth.Load(rate, 1e8), costs, given) for rate in (1e4, 1e5))
    assert all(a.processes <= b.processes and a.money <= b.money for a, b in zip(small, large, strict=True))
