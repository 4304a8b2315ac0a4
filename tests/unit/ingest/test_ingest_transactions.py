"""Ingest: every landed row ends in exactly one place, whatever is wrong with it and wherever the run died."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog

from fraud.declaration_file import load
from fraud.errors import BadInputError
from fraud.ingest import ingest_transactions
from fraud.ingest.delivery import delivering
from fraud.ingest.landing import Feed, schema
from fraud.job import Context
from fraud.lake import catalog
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).parents[3]
THREE = load(ROOT / "tests/declarations/three.yaml")
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
NOW = datetime(2025, 6, 1, tzinfo=UTC)
NEVER = -1


def context(home: Path, **uris: str) -> Context:
    settings = Settings(home=home, project=ROOT, **uris)  # type: ignore[arg-type]
    return Context(settings, Params.load(ROOT / "params.yaml"), THREE, structlog.get_logger())


def row(number: int, **changes: object) -> dict[str, object]:
    """A good transaction, one minute after the one before it."""
    at = NOON + timedelta(minutes=number)
    good = {
        "transaction_id": f"t{number:04}", "event_timestamp": at, "created_timestamp": at + timedelta(seconds=2),
        "user_id": f"u{number % 3}", "merchant_id": "m1", "merchant_category": "grocery", "amount": 10.0 + number,
        "distance_from_home": 1.5,
    }  # fmt: skip
    return good | changes


def land(home: Path, name: str, rows: list[dict[str, object]], feed: Feed = "transactions") -> None:
    with delivering(f"file://{home}/landing") as delivery:
        delivery.add(feed, name, "test", pa.Table.from_pylist(rows, schema(feed, THREE)))


def run(home: Path) -> ingest_transactions.Result:
    result = ingest_transactions.run(ingest_transactions.Config(now=NOW), context(home))
    assert result.rows_in == result.accepted + result.quarantined + result.duplicates
    return result


def lake(home: Path) -> Mapping[str, bytes | int]:
    """The versions of the tables, and every byte but those of the logs, which contain times, and temporary files."""
    root = home / "lake"
    tables = (catalog.TRANSACTIONS, catalog.LABELS, catalog.QUARANTINE)
    return {d.name: d.at(f"file://{root}").open().number for d in tables} | {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.parent.name != "_delta_log"
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"transaction_id": None}, "transaction_id is missing"),
        ({"transaction_id": ""}, "transaction_id is empty"),
        ({"user_id": None}, "user_id is missing"),
        ({"user_id": "x" * 129}, "user_id is longer than 128 characters"),
        ({"merchant_id": ""}, "merchant_id is empty"),
        ({"amount": None}, "amount is missing"),
        ({"amount": float("nan")}, "amount is missing"),
        ({"amount": -5.0}, "amount is not above 0"),
        ({"amount": 0.0}, "amount is not above 0"),
        ({"amount": 0.00005}, "amount is not above 0"),
        ({"amount": 1e9 + 1}, "amount is above 1000000000 USD"),
        ({"amount": float("inf")}, "amount is above 1000000000 USD"),
        ({"event_timestamp": None}, "event_timestamp is missing"),
        ({"event_timestamp": datetime(1999, 12, 31, tzinfo=UTC)}, "event_timestamp is before the year 2000"),
        (
            {"event_timestamp": NOON + timedelta(days=2)},
            "event_timestamp is more than a day after the ingestion time",
        ),
        (
            {"event_timestamp": NOW + timedelta(days=2), "created_timestamp": NOW + timedelta(days=2)},
            "event_timestamp is more than a day after the ingestion time",
        ),
        ({"distance_from_home": -0.1}, "distance_from_home is below 0 miles"),
        ({"distance_from_home": 12_501.0}, "distance_from_home is above 12500 miles"),
        ({"amount": 1.0, "parse_error": "amount: not a number: 'abc'"}, "a value could not be read"),
    ],
)
def test_a_row_that_breaks_the_contract_is_quarantined_with_its_reason(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    land(tmp_path, "2025-03-01", [row(0), row(1, **changes), row(2)])
    result = run(tmp_path)
    assert (result.accepted, result.quarantined, result.duplicates) == (2, 1, 0)
    assert result.quarantine_reasons == {reason: 1}
    quarantine = catalog.QUARANTINE.at(f"file://{tmp_path}/lake")
    [kept] = quarantine.read(quarantine.partitions()[0]).to_pylist()
    assert kept["reason"] == reason
    assert kept["position"] == 1
    assert kept["merchant_category"] == "grocery"


def test_a_row_with_several_faults_names_each(tmp_path: Path) -> None:
    land(tmp_path, "2025-03-01", [row(0, amount=-1.0, user_id=None)])
    result = run(tmp_path)
    assert result.quarantined == 1
    assert result.quarantine_reasons == {"amount is not above 0": 1, "user_id is missing": 1}


def test_what_the_contract_lets_in_is_put_in_its_terms(tmp_path: Path) -> None:
    land(
        tmp_path,
        "2025-03-01",
        [
            row(0, merchant_category="crypto_exchange", created_timestamp=None),
            row(1, merchant_category=None, distance_from_home=float("nan"), amount=0.09375),
            row(2, amount=0.03125, distance_from_home=None),
        ],
    )
    result = run(tmp_path)
    assert (result.accepted, result.unknown_categories) == (3, {"merchant_category": 2})
    rows = catalog.TRANSACTIONS.at(f"file://{tmp_path}/lake").read("2025-03-01").to_pylist()
    assert [r["merchant_category"] for r in rows] == ["other", "other", "grocery"]
    assert rows[0]["created_timestamp"] == NOON
    assert [r["amount"] for r in rows[1:]] == [0.0938, 0.0312]  # half to even: 937.5 -> 938, 312.5 -> 312 units
    assert [r["distance_from_home"] for r in rows] == [1.5, None, None]


def test_a_repeated_id_is_dropped_and_the_first_known_wins(tmp_path: Path) -> None:
    land(tmp_path, "2025-03-01", [row(0), row(0), row(1), row(1, amount=99.0)])
    land(tmp_path, "2025-03-02", [row(0), row(0, user_id="somebody else"), row(2)])
    result = run(tmp_path)
    assert (result.accepted, result.duplicates, result.conflicting_duplicates) == (3, 4, 2)
    land(tmp_path, "2025-03-03", [row(2, distance_from_home=None), row(3)])
    again = run(tmp_path)
    assert (again.accepted, again.duplicates, again.conflicting_duplicates) == (1, 1, 1)
    rows = catalog.TRANSACTIONS.at(f"file://{tmp_path}/lake").read("2025-03-01").to_pylist()
    assert [(r["transaction_id"], r["amount"]) for r in rows] == [
        ("t0000", 10.0), ("t0001", 11.0), ("t0002", 12.0), ("t0003", 13.0)
    ]  # fmt: skip


def test_an_invalid_row_does_not_take_the_id_of_the_valid_one_after_it(tmp_path: Path) -> None:
    land(tmp_path, "2025-03-01", [row(0, amount=-1.0), row(0)])
    result = run(tmp_path)
    assert (result.accepted, result.quarantined, result.duplicates) == (1, 1, 0)


def test_order_and_lateness_of_files_change_no_published_byte(tmp_path: Path) -> None:
    rows = [row(n, event_timestamp=NOON + timedelta(hours=7 * n), created_timestamp=None) for n in range(20)]
    once, late = tmp_path / "once", tmp_path / "late"
    land(once, "2025-03-01", rows)
    run(once)
    land(late, "2025-03-05", rows[::-1][:13])
    run(late)
    land(late, "2025-03-01", rows[:10])
    second = run(late)
    assert second.duplicates == 3
    assert second.days_reopened == 1  # rows 0 to 6 end on 03-03 at 06:00, row 7 is that day at 13:00
    transactions = {name: data for name, data in lake(once).items() if name.startswith("transactions/dt=")}
    published = catalog.TRANSACTIONS.at(f"file://{late}/lake")
    for name, data in transactions.items():
        assert (late / "lake" / name).read_bytes() == data
    assert published.partitions() == catalog.TRANSACTIONS.at(f"file://{once}/lake").partitions()


def test_late_rows_are_counted(tmp_path: Path) -> None:
    hour = timedelta(hours=1)
    land(
        tmp_path,
        "2025-03-01",
        [
            row(0, created_timestamp=NOON + hour + timedelta(microseconds=1)),
            row(1, created_timestamp=NOON + timedelta(minutes=1) + hour),
        ],
    )
    assert run(tmp_path).late == 1


def test_the_same_bytes_are_ingested_once_under_any_name(tmp_path: Path) -> None:
    land(tmp_path, "2025-03-01", [row(0), row(1)])
    land(tmp_path, "a-second-name", [row(0), row(1)])
    first = run(tmp_path)
    assert (first.files, first.rows_in, first.files_known) == (1, 2, 1)
    before = lake(tmp_path)
    again = run(tmp_path)
    assert (again.files, again.rows_in, again.files_known) == (0, 0, 2)
    assert lake(tmp_path) == before


def test_a_source_may_leave_out_what_is_optional_and_choose_its_arrow_types(tmp_path: Path) -> None:
    at = pa.array([NOON], pa.timestamp("ns", "America/New_York"))
    table = pa.table(
        {
            "amount": pa.array([7]), "user_id": pa.array(["u"]).dictionary_encode(), "event_timestamp": at,
            "merchant_id": pa.array(["m"], pa.large_string()), "merchant_category": ["travel"],
            "transaction_id": ["t"], "a_column_of_their_own": [1],
        }
    )  # fmt: skip
    target = tmp_path / "landing/transactions/one.parquet"
    target.parent.mkdir(parents=True)
    pq.write_table(table, target)
    assert run(tmp_path).accepted == 1
    [kept] = catalog.TRANSACTIONS.at(f"file://{tmp_path}/lake").read("2025-03-01").to_pylist()
    assert (kept["event_timestamp"], kept["created_timestamp"]) == (NOON, NOON)
    assert (kept["amount"], kept["distance_from_home"]) == (7.0, None)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.drop_columns(["amount", "user_id"]), "lacks user_id, amount"),
        (lambda t: t.set_column(5, "amount", pa.array(["10.0"])), "column amount has the wrong type"),
        (
            lambda t: t.set_column(1, "event_timestamp", pa.array([datetime(2025, 3, 1)], pa.timestamp("us"))),  # noqa: DTZ001
            "column event_timestamp has no time zone",
        ),
    ],
)
def test_a_file_of_the_wrong_shape_stops_the_run_before_anything_is_written(
    tmp_path: Path, spoil: Callable[[pa.Table], pa.Table], said: str
) -> None:
    land(tmp_path, "2025-03-01", [row(1)])
    table = pa.Table.from_pylist([row(0)], schema("transactions", THREE))
    with delivering(f"file://{tmp_path}/landing") as delivery:
        delivery.add("transactions", "2025-03-02", "test", spoil(table))
    with pytest.raises(BadInputError, match=said):
        run(tmp_path)
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize("keep", [0, 4, 0.5])
def test_an_empty_or_truncated_file_is_named(tmp_path: Path, keep: float) -> None:
    land(tmp_path, "2025-03-01", [row(n) for n in range(50)])
    [file] = (tmp_path / "landing").rglob("*.parquet")
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep) if keep < 1 else int(keep)])
    with pytest.raises(BadInputError, match=r"dt=2025-03-01/test-[0-9a-f]{16}.parquet is not a Parquet file"):
        run(tmp_path)


def test_damage_inside_a_file_is_found(tmp_path: Path) -> None:
    land(tmp_path, "2025-03-01", [row(n) for n in range(50)])
    [file] = (tmp_path / "landing").rglob("*.parquet")
    data = bytearray(file.read_bytes())
    data[4:200] = bytes(196)
    file.write_bytes(data)
    with pytest.raises(BadInputError, match="cannot be read"):
        run(tmp_path)
    assert not (tmp_path / "lake").exists()


def test_an_empty_landing_zone_is_no_error(tmp_path: Path) -> None:
    assert run(tmp_path).rows_in == 0


def test_files_are_ingested_from_an_object_store_as_from_a_folder(tmp_path: Path) -> None:
    several_days(tmp_path)
    run(tmp_path)
    for file in (tmp_path / "landing").rglob("*.parquet"):
        name = file.relative_to(tmp_path / "landing")
        fsspec.filesystem("memory").pipe_file(f"/stored/landing/{name}", file.read_bytes())
    stored = context(tmp_path / "other", landing_uri="memory://stored/landing")
    ingest_transactions.run(ingest_transactions.Config(now=NOW), stored)
    assert lake(tmp_path / "other") == lake(tmp_path)
    assert ingest_transactions.run(ingest_transactions.Config(now=NOW), stored).files_known == 3


KILLED = """
import itertools, json, os, sys
from datetime import UTC, datetime
from pathlib import Path

import structlog

from fraud.declaration_file import load
from fraud.ingest import commit, ingest_labels, ingest_transactions, landing, validation
from fraud.job import Context
from fraud.lake import dataset, lookup, records, table
from fraud.params import Params
from fraud.settings import Settings

root, feed, runs = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
three = load(root / "tests/declarations/three.yaml")
job = {"transactions": ingest_transactions, "labels": ingest_labels}[feed]
commit.ROWS_PER_BATCH = 12
write, synchronize = dataset.put_atomically, table.synchronized


def run(home, fatal):
    calls = itertools.count()

    def before(call):
        return lambda *arguments: os._exit(137) if next(calls) == fatal else call(*arguments)

    dataset.put_atomically = commit.put_atomically = records.put_atomically = before(write)
    table.synchronized = before(synchronize)  # after the commit
    settings = Settings(home=home, project=root)
    context = Context(settings, Params.load(root / "params.yaml"), three, structlog.get_logger())
    result = job.run(job.Config(now=datetime(2025, 6, 1, tzinfo=UTC)), context)
    (home / "ran.json").write_text(json.dumps({"writes": next(calls), "rows_in": result.rows_in}))


empty = landing.schema(feed, three).empty_table()
validation.quarantine_reasons(feed, three, empty, datetime.now(UTC))  # pandera warms up once, not in each fork
for home, fatal in runs:
    child = os.fork()
    if not child:
        run(Path(home), fatal)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == (0 if fatal < 0 else 137), (home, fatal, code)
"""


def run_in_processes(feed: str, runs: list[tuple[Path, int]]) -> None:
    """Run a feed's ingest for each (home, n), in a process of its own that dies, without any clean-up, instead of its
    n-th write. The processes are forks of one that has imported everything, for the sake of time."""
    arguments = json.dumps([(str(home), fatal) for home, fatal in runs])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(ROOT), feed, arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def ran(home: Path) -> tuple[int, int]:
    """Writes and rows of the last run that ended."""
    counts = json.loads((home / "ran.json").read_text())
    return counts["writes"], counts["rows_in"]


def several_days(home: Path) -> None:
    """Three files, two batches of at most 12 rows, days that both of them touch, faults of each kind."""
    days = [[row(n) for n in range(6)], [row(n + 6, event_timestamp=NOON + timedelta(days=1)) for n in range(6)]]
    third = [row(20), row(21, amount=-1.0), row(3), row(22, event_timestamp=NOON + timedelta(days=1))]
    for number, rows in enumerate([*days, third]):
        land(home, f"2025-03-0{number + 1}", rows)


def labels_of_several_days(home: Path) -> None:
    for day in range(3):
        rows = [
            {
                "transaction_id": f"t{n:04}",
                "is_fraud": n % 2 == 0,
                "label_timestamp": NOON + timedelta(days=day, hours=n),
            }
            for n in range(day * 4, day * 4 + 7)
        ]
        land(home, f"2025-03-0{day + 1}", [*rows, {"transaction_id": "bad"}], "labels")


@pytest.mark.parametrize("feed", ["transactions", "labels"])
def test_killed_at_any_write_and_run_again_the_lake_is_that_of_a_clean_run(tmp_path: Path, feed: str) -> None:
    land_some = several_days if feed == "transactions" else labels_of_several_days
    clean = tmp_path / "clean"
    land_some(clean)
    run_in_processes(feed, [(clean, NEVER)])
    expected, (writes, rows_in) = lake(clean), ran(clean)
    assert writes > 10
    homes = [tmp_path / str(fatal) for fatal in range(writes)]
    for home in homes:
        land_some(home)
    run_in_processes(feed, [pair for fatal, home in enumerate(homes) for pair in ((home, fatal), (home, NEVER))])
    for fatal, home in enumerate(homes):
        assert lake(home) == expected, f"killed at write {fatal} of {writes}"
        assert sum(file["rows"] for file in ledger(home, feed)) == rows_in


def ledger(home: Path, feed: str) -> list[dict[str, int]]:
    entries = (home / "lake/ledger" / feed).glob("batch-*.json")
    return [file for entry in entries for file in json.loads(entry.read_text())["files"]]


def test_a_run_that_finishes_a_killed_one_reports_its_rows(tmp_path: Path) -> None:
    several_days(tmp_path)
    clean = tmp_path / "clean"
    several_days(clean)
    run_in_processes("transactions", [(clean, NEVER)])
    ledger_entry_of_the_last_batch = ran(clean)[0] - 1
    run_in_processes("transactions", [(tmp_path, ledger_entry_of_the_last_batch)])
    result = run(tmp_path)
    assert result.finished_a_killed_run
    assert (result.rows_in, result.accepted, result.quarantined, result.duplicates) == (4, 2, 1, 1)
