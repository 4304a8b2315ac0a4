"""Small files after public bug reports, where they are beside the checkout. Other tests write the same faults."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import structlog
import yaml

from fraud.declaration_file import load
from fraud.errors import BadConfigError, BadInputError
from fraud.ingest import import_data
from fraud.job import Context
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).parents[3]
THREE = load(ROOT / "tests/declarations/three.yaml")
CASES = ROOT.parent / "shared/cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"NOT TESTED: the case files; {CASES} is not there")


def run(home: Path, case: str, mapping: str, /, **changes: object) -> import_data.Result:
    """Import a case; `changes` are laid over its mapping."""
    path = CASES / mapping
    if changes:
        path = home / "mapping.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load((CASES / mapping).read_text()) | changes))
    context = Context(
        Settings(home=home, project=ROOT), Params.load(ROOT / "params.yaml"), THREE, structlog.get_logger()
    )
    result = import_data.run(import_data.Config(source=str(CASES / case), mapping=path), context)
    assert isinstance(result, import_data.Result)
    return result


def landed(home: Path, feed: str) -> dict[object, dict[str, object]]:
    files = sorted((home / "landing" / feed).rglob("*.parquet"))
    rows = [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
    return {row["transaction_id"] or row["parse_error"]: row for row in rows}


def test_a_stray_pair_of_quotes(tmp_path: Path) -> None:
    result = run(tmp_path, "d08e_stray_pair_short.csv", "d08e.yaml")
    assert (result.rows_in, result.unreadable) == (3, 2)
    assert [key for key in landed(tmp_path, "transactions") if not str(key).startswith("row: ")] == ["a3"]


def test_a_backslash_before_quotes(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no row"):
        run(tmp_path, "d08d_backslash.csv", "d08d_backslash.yaml")
    run(tmp_path, "d08d_backslash.csv", "d08d_backslash.yaml", source={"format": "csv", "escape": "\\"})
    rows = landed(tmp_path, "transactions")
    assert [row["merchant_id"] for row in rows.values()] == ['Joe "the" man', 'A, "B", C']


@pytest.mark.parametrize(
    ("source", "amounts"), [("d10_decimal_comma", [1234.56, 12.5]), ("d10c_dot_thousands", [1234.0])]
)
def test_decimal_commas_and_dots_between_thousands(tmp_path: Path, source: str, amounts: list[float]) -> None:
    dialect = {"format": "csv", "delimiter": ";", "decimal": ",", "thousands": "."}
    run(tmp_path, f"{source}.csv", f"{source}.yaml", source=dialect)
    assert [row["amount"] for row in landed(tmp_path, "transactions").values()] == amounts


@pytest.mark.parametrize(
    ("source", "mapping", "second"),
    [
        ("c01_pg_short_offset.csv", "base.yaml", 250_000), ("c01_pg_short_offset.csv", "base_z.yaml", 250_000),
        ("c03_bigquery_utc.csv", "c03.yaml", 500_000),
    ],
)  # fmt: skip
def test_offsets_as_databases_write_them(tmp_path: Path, source: str, mapping: str, second: int) -> None:
    run(tmp_path, source, mapping)
    times = [row["event_timestamp"] for row in landed(tmp_path, "transactions").values()]
    assert times == [datetime(2024, 3, 1, 10, tzinfo=UTC), datetime(2024, 3, 1, 11, 0, 0, second, UTC)]


def test_one_row_in_milliseconds(tmp_path: Path) -> None:
    result = run(tmp_path, "c04b_one_row_ms.csv", "c04b.yaml")
    assert (result.rows_in, result.unreadable, result.without_day) == (2, 1, 1)


def test_boolean_labels(tmp_path: Path) -> None:
    result = run(tmp_path, "c11_bool_label.parquet", "c11_bool_label.yaml")
    assert (result.labels, result.unreadable_labels) == (3, 0)
    original = pq.ParquetFile(CASES / "c11_bool_label.parquet").read()
    expected = dict(zip(original["id"].to_pylist(), original["fraud"].to_pylist(), strict=True))
    assert {key: row["is_fraud"] for key, row in landed(tmp_path, "labels").items()} == expected


def test_utf_16(tmp_path: Path) -> None:
    assert run(tmp_path, "d01_utf16.csv", "d01_utf16.yaml").unreadable == 0
    with pytest.raises(BadInputError, match="byte order mark of UTF-16"):
        run(tmp_path, "d01_utf16.csv", "ok.yaml")


def test_public_formats(tmp_path: Path) -> None:
    run(tmp_path, "p03_tabformer.csv", "p03_tabformer.yaml")
    first = min(row["event_timestamp"] for row in landed(tmp_path, "transactions").values())  # type: ignore[type-var]
    assert first == datetime(2019, 1, 1, tzinfo=UTC)
    time = {"column": "TransactionDT", "unit": "s", "since": "2017-12-01T00:00:00Z"}
    (tmp_path / "ieee").mkdir()
    run(tmp_path / "ieee", "p05_ieee.csv", "p05_ieee.yaml", event_timestamp=time)
    rows = landed(tmp_path / "ieee", "transactions")
    assert rows["2987000"]["event_timestamp"] == datetime(2017, 12, 2, tzinfo=UTC)  # 86,400 seconds


@pytest.mark.parametrize(
    ("source", "mapping", "error", "said"),
    [
        ("c13_struct.parquet", "c13_struct.yaml", BadInputError, "column merchant is nested"),
        ("d06_trailing_delim.csv", "d06_trailing_delim.yaml", BadInputError, "8 values in a row of 7 columns: a0,"),
        ("ok.csv", "k02_cp1252.yaml", BadConfigError, "is not UTF-8"),
        ("ok.csv", "k03h_enc.yaml", BadConfigError, "source.encoding"),
        ("ok.csv", "k03m_delim.yaml", BadConfigError, "source.delimiter"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, source: str, mapping: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        run(tmp_path, source, mapping)
    assert said in str(caught.value)


def test_a_column_named_twice(tmp_path: Path) -> None:
    named = {
        "transaction_id": "transaction_id", "user_id": "user_id", "merchant_id": "merchant_id",
        "merchant_category": "merchant_category", "amount": "amount",
    }  # fmt: skip
    time = {"column": "event_timestamp", "format": "ISO8601"}
    columns: dict[str, object] = {key: {"column": column} for key, column in named.items()}
    with pytest.raises(BadInputError, match="several columns named amount"):
        run(tmp_path, "l12_dupcol.csv", "ok.yaml", event_timestamp=time, label=None, **columns)
