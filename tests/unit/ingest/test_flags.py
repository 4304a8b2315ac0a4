"""Columns of flags: booleans, numbers and texts, by one list."""

from decimal import Decimal

import pyarrow as pa
import pytest

from fraud.core.columns import NOT_A_FLAG, flag
from fraud.errors import BadInputError
from fraud.ingest.flags import flags_of

TEXTS = ["true", "T", " yes ", "Y", "1", "1.0", "FALSE", "f", "no", "n", "0", "0.0", "", "  ", None]


@pytest.mark.parametrize(
    ("column", "flags"),
    [
        (pa.array([True, False, None]), [True, False, None]),
        (pa.array([1, 0, None]), [True, False, None]),
        (pa.array([1.0, 0.0, float("nan")]), [True, False, None]),
        (pa.array([Decimal("1.0"), Decimal("0.0"), None]), [True, False, None]),
        (pa.array(["yes", "no", None]).dictionary_encode(), [True, False, None]),
        (pa.array(["t", "f", None], pa.large_string()), [True, False, None]),
        (pa.nulls(2), [None, None]),
        (pa.chunked_array([], pa.string()), []),
        (pa.array(TEXTS), [True] * 6 + [False] * 6 + [None] * 3),
    ],
    ids=str,
)
def test_flags_of_every_type_are_read(column: pa.Array, flags: list[bool | None]) -> None:
    found = flags_of("card_present", column)
    assert (found.values.to_pylist(), found.faults.null_count) == (flags, len(flags))


def test_a_text_has_the_value_that_core_gives_it() -> None:
    assert flags_of("card_present", pa.array(TEXTS)).values.to_pylist() == [flag(text) for text in TEXTS]


@pytest.mark.parametrize("column", [pa.array([2]), pa.array([0.5]), pa.array(["maybe"]), pa.array(["null"])], ids=str)
def test_another_value_is_a_fault_of_its_row(column: pa.Array) -> None:
    found = flags_of("card_present", column)
    assert (found.values.to_pylist(), found.faults.to_pylist()) == ([None], [NOT_A_FLAG])


def test_a_mapping_gives_its_own_texts() -> None:
    column = pa.array(["Chip Transaction", "ONLINE", "yes", None])
    found = flags_of("entry", column, ["chip transaction"], ["online"])
    assert found.values.to_pylist() == [True, False, None, None]
    assert found.faults.to_pylist() == [None, None, NOT_A_FLAG, None]


@pytest.mark.parametrize("column", [pa.array([b"1"]), pa.array([[True]]), pa.array([1], pa.date32())], ids=str)
def test_a_column_of_another_type_is_refused_by_name(column: pa.Array) -> None:
    with pytest.raises(BadInputError, match="column card_present has the wrong type"):
        flags_of("card_present", column)
