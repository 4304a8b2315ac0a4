"""What an import lands: parts of a day beside each other, both feeds or none, ids by the rule of their type."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog
import yaml

from fraud.declaration_file import load
from fraud.errors import BadInputError
from fraud.ingest import import_data, ingest_labels, ingest_transactions
from fraud.ingest.landing import landed_files
from fraud.job import Context
from fraud.lake import catalog
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).parents[3]
THREE = load(ROOT / "tests/declarations/three.yaml")
HEADER = "id,at,user,shop,kind,usd,bad\n"
NAMES = {"transaction_id": "id", "user_id": "user", "merchant_id": "shop", "merchant_category": "kind", "amount": "usd"}
MAPPING = {name: {"column": column} for name, column in NAMES.items()} | {
    "name": "shop", "source": {"format": "csv"}, "event_timestamp": {"column": "at", "format": "ISO8601"},
    "label": {"column": "bad", "delay_days": 7},
}  # fmt: skip


def context(home: Path) -> Context:
    return Context(
        Settings(home=home, project=ROOT), Params.load(ROOT / "params.yaml"), THREE, structlog.get_logger()
    )  # fmt: skip


def bring(home: Path, file: Path, **changes: object) -> import_data.Result:
    mapping = home / "mapping.yaml"
    mapping.write_text(yaml.safe_dump(MAPPING | changes))
    return import_data.run(import_data.Config(source=str(file), mapping=mapping), context(home))


def bring_text(home: Path, *lines: str) -> import_data.Result:
    source = home / "source.csv"
    source.write_text(HEADER + "".join(f"{line}\n" for line in lines))
    return bring(home, source)


def line(name: str, day: int, user: str = "u1", shop: str = "m1") -> str:
    return f"{name},2024-03-{day:02}T10:00:00Z,{user},{shop},home,10.5,0"


def in_lake(home: Path) -> list[dict[str, object]]:
    table = catalog.TRANSACTIONS.at(f"file://{home}/lake").read_range("2024", "2025")
    return [] if table is None else table.to_pylist()


def test_a_second_part_of_the_same_day_lands_beside_the_first(tmp_path: Path) -> None:
    first = bring_text(tmp_path, line("a0", 1), line("a1", 1))
    second = bring_text(tmp_path, line("b0", 1), line("b1", 2))
    again = bring_text(tmp_path, line("a0", 1), line("a1", 1))
    assert [r.transactions for r in (first, second, again)] == [2, 2, 0]
    assert [r.labels for r in (first, second, again)] == [2, 2, 0]
    assert (again.known_transactions, again.known_labels, again.files) == (2, 2, 0)
    taken = ingest_transactions.run(ingest_transactions.Config(), context(tmp_path))
    labels = ingest_labels.run(ingest_labels.Config(), context(tmp_path))
    assert (taken.rows_in, taken.accepted) == (4, 4)
    assert (labels.rows_in, labels.accepted) == (4, 4)


def test_when_labels_cannot_be_written_no_transaction_lands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = import_data._by_day

    def fails_at_labels(rows: object, feed: str, landed: pa.Schema) -> object:
        if feed == "labels":
            raise BadInputError("a label that cannot be written")
        return real(rows, feed, landed)  # type: ignore[arg-type]

    monkeypatch.setattr(import_data, "_by_day", fails_at_labels)
    with pytest.raises(BadInputError, match="a label that"):
        bring_text(tmp_path, line("a0", 1))
    assert [path for path in (tmp_path / "landing").rglob("*") if path.is_file()] == []


def test_ids_that_a_spreadsheet_rounded_are_named_in_the_quarantine(tmp_path: Path) -> None:
    imported = bring_text(
        tmp_path, line("a0", 1, user="2.29116E+15"), line("a1", 1, user="2.29116E+15"),
        line("a2", 1, shop='"2,29116E+15"'), line("a3", 1, user=" u1 "), line("a4", 1, user="NULL"),
    )  # fmt: skip
    assert (imported.rows_in, imported.unreadable) == (5, 3)
    taken = ingest_transactions.run(ingest_transactions.Config(), context(tmp_path))
    assert (taken.accepted, taken.quarantined) == (1, 4)
    rounded = "is a long number in scientific notation, as a spreadsheet writes it (its last digits are lost)"
    assert taken.quarantine_reasons[f"user_id {rounded}"] == 2
    assert taken.quarantine_reasons[f"merchant_id {rounded}"] == 1
    [kept] = in_lake(tmp_path)
    assert (kept["transaction_id"], kept["user_id"]) == ("a3", "u1")


def test_a_float_column_of_ids_is_exact_or_refused(tmp_path: Path) -> None:
    at = pa.array([datetime(2024, 3, 1, tzinfo=UTC)] * 4, pa.timestamp("us", "UTC"))
    table = pa.table(
        {
            "id": ["p0", "p1", "p2", "p3"], "at": at, "user": [1001.0, 4_111_111_111_111_111.0, 1e16, float("nan")],
            "shop": pa.array([b"\x01" * 16] * 4, pa.uuid()), "kind": ["home"] * 4, "usd": [1.0] * 4, "bad": ["0"] * 4,
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "source.parquet")
    imported = bring(
        tmp_path, tmp_path / "source.parquet", source={"format": "parquet"}, event_timestamp={"column": "at"}
    )
    assert imported.unreadable == 1
    taken = ingest_transactions.run(ingest_transactions.Config(), context(tmp_path))
    assert taken.quarantine_reasons == {
        "a value could not be read": 1, "user_id is a number too large to be exact in its type": 1,
        "user_id is missing": 2,
    }  # fmt: skip
    uuid = "01010101-0101-0101-0101-010101010101"
    assert [(r["user_id"], r["merchant_id"]) for r in in_lake(tmp_path)] == [
        ("1001", uuid), ("4111111111111111", uuid),
    ]  # fmt: skip


def test_parts_of_an_id_are_each_read_by_their_type(tmp_path: Path) -> None:
    source = tmp_path / "source.parquet"
    at = pa.array([datetime(2024, 3, 1, tzinfo=UTC)] * 2, pa.timestamp("us", "UTC"))
    pq.write_table(
        pa.table({"shop": [7.0, 1.5], "no": [" 1 ", "2"], "at": at, "user": ["u", "u"], "kind": ["home"] * 2,
                  "usd": [1.0, 1.0], "bad": ["0", "0"]}), source,
    )  # fmt: skip
    bring(
        tmp_path, source, source={"format": "parquet"}, event_timestamp={"column": "at"},
        transaction_id={"columns": ["shop", "no"], "prefix": "s"}, merchant_id={"constant": "m"},
    )  # fmt: skip
    [file] = landed_files(f"file://{tmp_path}/landing", "transactions")
    rows = pq.read_table(file.uri.removeprefix("file://")).to_pylist()
    assert [row["transaction_id"] for row in rows] == ["s7-1", None]
    assert rows[1]["parse_error"] == "transaction_id: is not a whole number: '1.5'"


def test_a_column_of_a_landing_file_that_is_there_twice_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "landing/transactions"
    folder.mkdir(parents=True)
    names = ["transaction_id", "event_timestamp", "user_id", "merchant_id", "amount", "amount"]
    at = pa.array([datetime(2024, 3, 1, tzinfo=UTC)], pa.timestamp("us", "UTC"))
    columns = [pa.array(["t"]), at, pa.array(["u"]), pa.array(["m"]), pa.array([1.0]), pa.array([2.0])]
    pq.write_table(pa.Table.from_arrays(columns, names=names), folder / "a.parquet")
    with pytest.raises(BadInputError, match="several columns named amount"):
        ingest_transactions.run(ingest_transactions.Config(), context(tmp_path))


CASES = ROOT.parent / "shared/cases"


@pytest.mark.skipif(not CASES.is_dir(), reason=f"NOT TESTED: the case files; {CASES} is not there")
@pytest.mark.parametrize(
    ("files", "mapping", "users"),
    [
        (["e01_part1.csv", "e01_part2.csv"], "e01.yaml", ["u1"] * 4 + ["u2"] * 4),
        (["d12_ids.csv"], "d12_ids.yaml", []),
        (["c09_float_user.parquet"], "c09_float_user.yaml", ["1001"]),
        (["c08_uuid.parquet"], "c08_uuid.yaml", ["u0", "u1", "u2"]),
    ],
)
def test_the_case_files(tmp_path: Path, files: list[str], mapping: str, users: list[str]) -> None:
    for file in files:
        import_data.run(import_data.Config(source=str(CASES / file), mapping=CASES / mapping), context(tmp_path))
    ingest_transactions.run(ingest_transactions.Config(), context(tmp_path))
    assert [row["user_id"] for row in in_lake(tmp_path)] == users
