"""Ids by the rule of their type; what is not exact is a fault. The values are from the types' own definitions."""

import uuid
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fraud.core.contract import ID_CONTROL, ID_ERROR_CELL, ID_ROUNDED
from fraud.errors import BadInputError
from fraud.ingest.ids import NOT_EXACT, NOT_UTF8, NOT_WHOLE, described, ids_of

UUID = uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pa.array(["u1", " u1 ", "\u00a0u1", "00742", "1001.0", "Zoë", "12e45678", "#1"]),
         ["u1", "u1", "u1", "00742", "1001.0", "Zoë", "12e45678", "#1"]),
        (pa.array(["NULL", "nan", "NaN", "None", "<NA>", "(null)", "\\N", "#N/A", None]), [None] * 9),
        (pa.array(["", "  "]), ["", ""]),
        (pa.array(["a", None, "a"], pa.large_string()), ["a", None, "a"]),
        (pa.array(["a"], pa.string_view()), ["a"]),
        (pa.array([7, -1, None], pa.int16()), ["7", "-1", None]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (pa.array([4_111_111_111_111_111.0, -0.0, float("nan"), None]), ["4111111111111111", "0", None, None]),
        (pa.array([2.0**53 - 1]), ["9007199254740991"]),
        (pa.array([2.0**24 - 1], pa.float32()), ["16777215"]),
        (pa.array([2047.0], pa.float16()), ["2047"]),
        (pa.array([Decimal("1001.00"), None], pa.decimal128(38, 2)), ["1001", None]),
        (pa.array([Decimal(7)], pa.decimal64(10, 0)), ["7"]),
        (pa.array([Decimal(10) ** 60], pa.decimal256(76, 0)), ["1" + "0" * 60]),
        (pa.array([UUID.bytes, None], pa.uuid()), [str(UUID), None]),
        (pa.array([UUID.bytes], pa.binary(16)), [str(UUID)]),
        (pa.array([b"\x01\xab"], pa.binary(2)), ["01ab"]),
        (pa.array([b" u1", "Zoë".encode()]), ["u1", "Zoë"]),
        (pa.array(["a", " b", "a", None]).dictionary_encode(), ["a", "b", "a", None]),
        (pc.run_end_encode(pa.array([5, 5, 6])), ["5", "5", "6"]),
        (pa.nulls(2), [None, None]),
        (pa.chunked_array([], pa.string()), []),
    ],
)  # fmt: skip
def test_what_is_exact_is_read(column: pa.Array, texts: list[str | None]) -> None:
    found = ids_of("user_id", column)
    assert (found.texts.to_pylist(), found.faults.null_count) == (texts, len(texts))


@pytest.mark.parametrize(
    ("column", "fault"),
    [
        (pa.array(["2.29116E+15"]), ID_ROUNDED),
        (pa.array(["2,29116E+15"]), ID_ROUNDED),
        (pa.array(["4.111111111111111e+15"]), ID_ROUNDED),
        (pa.array(["1.0E15"]), ID_ROUNDED),
        (pa.array(["2E+15"]), ID_ROUNDED),
        (pa.array(["########"]), ID_ERROR_CELL),
        (pa.array(["#NAME?"]), ID_ERROR_CELL),
        (pa.array(["u\n1"]), ID_CONTROL),
        (pa.array(["u1\t"]), ID_CONTROL),
        (pa.array(["u\x00"]), ID_CONTROL),
        (pa.array(["u\x85"]), ID_CONTROL),
        (pa.array([2.0**53]), NOT_EXACT),
        (pa.array([1e16]).dictionary_encode(), NOT_EXACT),
        (pa.array([2.0**24], pa.float32()), NOT_EXACT),
        (pa.array([1.5]), NOT_WHOLE),
        (pa.array([float("inf")]), NOT_WHOLE),
        (pa.array([Decimal("1.50")], pa.decimal128(10, 2)), NOT_WHOLE),
        (pa.array([b"\xff"]), NOT_UTF8),
    ],
)
def test_what_is_not_is_a_fault_of_its_row_alone(column: pa.Array, fault: str) -> None:
    found = ids_of("user_id", column)
    assert (found.texts.to_pylist(), found.faults.to_pylist()) == ([None], [fault])
    [error] = described("user_id", found.faults, column).to_pylist()
    assert error.startswith(f"user_id: {fault}: ")


def test_rows_keep_their_places() -> None:
    column = pa.array(["a", "2.29116E+15", " b", None, "NULL", "2.29116E+15", "c"])
    found = ids_of("user_id", column)
    assert found.texts.to_pylist() == ["a", None, "b", None, None, None, "c"]
    assert [i for i, fault in enumerate(found.faults.to_pylist()) if fault] == [1, 5]


@pytest.mark.parametrize(
    "column", [pa.array([True]), pa.array([[1]]), pa.array([{"a": 1}]), pa.array([1], pa.date32())]
)
def test_a_column_of_a_type_that_is_no_id_is_refused_by_name(column: pa.Array) -> None:
    with pytest.raises(BadInputError, match="column user_id has the wrong type for an id"):
        ids_of("user_id", column)
