"""What an import reads: labels of every type, several files as one source, and a refusal when nothing can be read."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog
import yaml

from fraud.declaration_file import load
from fraud.errors import BadInputError
from fraud.ingest import import_data
from fraud.job import Context
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).parents[3]
THREE = load(ROOT / "tests/declarations/three.yaml")
MAPPING = {
    "name": "bank", "source": {"format": "csv"}, "transaction_id": {"column": "id"},
    "event_timestamp": {"column": "at", "format": "ISO8601"}, "user_id": {"column": "user"},
    "merchant_id": {"column": "shop"}, "amount": {"column": "usd"}, "label": {"column": "bad"},
}  # fmt: skip
HEADER = "id,at,user,shop,usd,bad\n"
GOOD = "a,2024-03-01T10:00:00Z,u,m,1.5,0\n"


def mapping(home: Path, **changes: object) -> Path:
    path = home / "mapping.yaml"
    path.write_text(yaml.safe_dump(MAPPING | changes))
    return path


def run(
    home: Path, path: Path, /, *, check: bool = False, **changes: object
) -> import_data.Result | import_data.MappingCheck:
    context = Context(
        Settings(home=home, project=ROOT), Params.load(ROOT / "params.yaml"), THREE, structlog.get_logger()
    )
    return import_data.run(import_data.Config(source=str(path), mapping=mapping(home, **changes), check=check), context)


def text(home: Path, content: str) -> Path:
    path = home / "source.csv"
    path.write_text(content)
    return path


def landed(home: Path, feed: str) -> list[dict[str, object]]:
    files = sorted((home / "landing" / feed).rglob("*.parquet"))
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def verdicts(home: Path) -> dict[object, object]:
    return {row["transaction_id"]: row["is_fraud"] for row in landed(home, "labels")}


@pytest.mark.parametrize(
    "column",
    [
        pa.array([True, False, None]), pa.array([1, 0, None]), pa.array([1.0, 0.0, float("nan")]),
        pa.array([1, 0, None], pa.decimal128(3, 1)), pa.array(["1.0", "0.0", None]), pa.array(["Yes", "NO", None]),
        pa.array([" true ", "False", None]), pa.array(["t", "f", None]), pa.array(["1", "0", None]).dictionary_encode(),
    ],
    ids=str,
)  # fmt: skip
def test_labels_of_every_type_are_read(tmp_path: Path, column: pa.Array) -> None:
    source = tmp_path / "source.parquet"
    at = pa.array([0, 1, 2], pa.timestamp("us", "UTC"))
    table = {"id": ["a", "b", "c"], "at": at, "user": ["u"] * 3, "shop": ["m"] * 3, "usd": [1.5] * 3, "bad": column}
    pq.write_table(pa.table(table), source)
    result = run(tmp_path, source, source={"format": "parquet"}, event_timestamp={"column": "at"})
    assert isinstance(result, import_data.Result)
    assert (result.labels, result.unreadable_labels) == (2, 0)
    assert verdicts(tmp_path) == {"a": True, "b": False}


def test_unreadable_labels_are_counted(tmp_path: Path) -> None:
    rows = [
        GOOD,
        GOOD.replace("a,", "b,", 1).replace(",0\n", ",2\n"),
        GOOD.replace("a,", "c,", 1).replace(",0\n", ",\n"),
    ]
    result = run(tmp_path, text(tmp_path, HEADER + "".join(rows)))
    assert isinstance(result, import_data.Result)
    assert (result.rows_in, result.unreadable, result.labels, result.unreadable_labels) == (3, 0, 2, 1)
    assert verdicts(tmp_path) == {"a": False, "b": None}


def test_the_folder_of_a_delivery_is_one_source(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    for number in range(3):
        (parts / f"part-{number}.csv").write_text(HEADER + GOOD.replace("a,", f"a{number},", 1))
    (parts / "_SUCCESS").touch()
    result = run(tmp_path, parts)
    assert isinstance(result, import_data.Result)
    assert (result.rows_in, result.labels) == (3, 3)
    assert [row["transaction_id"] for row in landed(tmp_path, "transactions")] == ["a0", "a1", "a2"]


def test_a_part_that_cannot_be_read_lands_nothing(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "0.csv").write_text(HEADER + GOOD)
    (parts / "1.csv").write_text(HEADER.replace("usd", "eur") + GOOD)
    with pytest.raises(BadInputError, match=r"1\.csv lacks usd"):
        run(tmp_path, parts)
    assert not (tmp_path / "landing").exists()


def test_one_row_in_milliseconds_among_seconds_costs_that_row(tmp_path: Path) -> None:
    times = ["1709287200", "1709290800000", "253402300799", "-62135596800"]  # the last two: 9999-12-31, year 1
    rows = [GOOD.replace("2024-03-01T10:00:00Z", at).replace("a,", f"a{at},", 1) for at in times]
    result = run(tmp_path, text(tmp_path, HEADER + "".join(rows)), event_timestamp={"column": "at", "unit": "s"})
    assert isinstance(result, import_data.Result)
    assert (result.rows_in, result.transactions, result.unreadable, result.without_day) == (4, 4, 3, 3)
    good, *_ = landed(tmp_path, "transactions")
    assert good["event_timestamp"] == datetime(2024, 3, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("content", "reasons"),
    [
        (HEADER + GOOD.replace("1.5", "x") * 5, ["transaction a: amount: not a number: 'x'"] * 3),
        (HEADER + GOOD.replace("\n", ",\n") * 2, [f"row: 7 values in a row of 6 columns: {GOOD.strip()},"] * 2),
        (HEADER + 'a,2024-03-01T10:00:00Z,u,"m,1.5,0\n', ["row: the quoting is not well-formed: a,2024"]),
        (HEADER + GOOD.replace(",0\n", ",2\n"), ["transaction a: is_fraud: neither fraud nor legitimate: '2'"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("check", [False, True])
def test_a_source_of_which_nothing_can_be_read_is_refused_with_the_reasons(
    tmp_path: Path, content: str, reasons: list[str], check: bool
) -> None:
    with pytest.raises(BadInputError, match=r"no (row|label) of .*source\.csv can be read") as caught:
        run(tmp_path, text(tmp_path, content), check=check)
    shown = [line.strip() for line in caught.value.got.strip().split("\n")]
    assert [line[: len(reason)] for line, reason in zip(shown, reasons, strict=True)] == reasons
    assert not (tmp_path / "landing").exists()


def test_a_check_shows_what_the_mapping_makes_of_the_first_thousand_rows(tmp_path: Path) -> None:
    rows = [GOOD.replace("a,", f"a{number},", 1) for number in range(1_500)]
    rows[0] = rows[0].replace("1.5", "x").replace(",u,", ",,")
    rows[1] = rows[1].replace(",0\n", ",2\n")
    rows[2] = "a2,too,short\n"
    result = run(tmp_path, text(tmp_path, HEADER + "".join(rows)), check=True)
    assert isinstance(result, import_data.MappingCheck)
    assert (result.rows, result.unreadable, result.labels, result.unreadable_labels) == (1_000, 2, 999, 1)
    by_name = {str(column["column"]): column for column in result.columns}
    assert {name: (c["read"], c["null"], c["unreadable"]) for name, c in by_name.items()} == {
        "transaction_id": (999, 0, 0), "event_timestamp": (999, 0, 0), "created_timestamp": (999, 0, 0),
        "user_id": (998, 1, 0), "merchant_id": (999, 0, 0), "merchant_category": (0, 999, 0), "amount": (998, 0, 1),
        "distance_from_home": (0, 999, 0), "is_fraud": (998, 0, 1), "label_timestamp": (999, 0, 0),
    }  # fmt: skip
    assert by_name["event_timestamp"]["reads"] == "at"
    assert by_name["event_timestamp"]["example"] == "2024-03-01T10:00:00Z -> 2024-03-01 10:00:00+00:00"
    assert result.reasons == [
        "transaction a0: amount: not a number: 'x'",
        "row: 3 values in a row of 6 columns: a2,too,short",
        "transaction a1: is_fraud: neither fraud nor legitimate: '2'",
    ]
    assert not (tmp_path / "landing").exists()


def fraud(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("fraud")
    return subprocess.run(
        [program, "import", f"--mapping={home / 'mapping.yaml'}", *arguments], check=False, capture_output=True,
        text=True, env={"FRAUD_HOME": str(home), "FRAUD_PROJECT": str(ROOT), "PATH": ""},
    )  # fmt: skip


def test_the_command_prints_the_check_as_a_table(tmp_path: Path) -> None:
    mapping(tmp_path)
    done = fraud(tmp_path, f"--source={text(tmp_path, HEADER + GOOD)}", "--check")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].endswith("0 rows and 0 of 1 labels are unreadable. Nothing was landed.")
    assert lines[2].split() == ["column", "reads", "read", "null", "unreadable", "example"]
    assert lines[3].split() == ["transaction_id", "id", "1", "0", "0", "a", "->", "a"]


@pytest.mark.parametrize(
    ("content", "changes", "code"),
    [
        (HEADER + GOOD.replace("1.5", "x"), {}, 65),
        (HEADER, {}, 65),
        (HEADER + GOOD, {"source": {"format": "csv", "encoding": "utf-9"}}, 2),
        (HEADER + GOOD, {}, 0),
    ],
)
def test_the_exit_code_names_the_kind_of_failure(
    tmp_path: Path, content: str, changes: dict[str, object], code: int
) -> None:
    mapping(tmp_path, **changes)
    done = fraud(tmp_path, f"--source={text(tmp_path, content)}", "--json")
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert ("error" in json.loads(done.stdout)) == (code != 0)
