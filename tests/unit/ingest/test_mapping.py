"""A mapping is checked before anything is read: each wrong option names its file and key."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from fraud.declaration_file import load
from fraud.errors import BadConfigError
from fraud.ingest.mapping.mapping import Mapping

ROOT = Path(__file__).parents[3]
THREE = load(ROOT / "tests/declarations/three.yaml")
GOOD = {
    "name": "bank", "source": {"format": "csv"}, "transaction_id": {"column": "id"},
    "event_timestamp": {"column": "at", "format": "ISO8601"}, "user_id": {"column": "user"},
    "merchant_id": {"column": "shop"}, "amount": {"column": "usd"},
}  # fmt: skip


def load(folder: Path, **changes: object) -> Mapping:
    path = folder / "mapping.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes, allow_unicode=True), encoding="utf-8")
    return Mapping.load(path, THREE)


def csv(**dialect: object) -> dict[str, object]:
    return {"source": {"format": "csv", **dialect}}


def at(**time: object) -> dict[str, object]:
    return {"event_timestamp": time}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (csv(delimiter="é"), "source.delimiter"),
        (csv(delimiter="||"), "source.delimiter"),
        (csv(delimiter=""), "source.delimiter"),
        (csv(delimiter="\n"), "source.delimiter"),
        (csv(quote="„"), "source.quote"),
        (csv(quote=","), "source"),
        (csv(quote="'", escape="'"), "source"),
        (csv(escape="ab"), "source.escape"),
        (csv(encoding="utf-9"), "source.encoding"),
        (csv(encoding="base64"), "source.encoding"),
        (csv(encoding="a\0b"), "source.encoding"),
        (csv(thousands="."), "source"),
        (csv(decimal=",", thousands=","), "source"),
        (csv(decimal=";"), "source.decimal"),
        (csv(thousands="x"), "source.thousands"),
        (csv(nulls=[None]), "source.nulls.0"),
        (csv(multiline="perhaps"), "source.multiline"),
        (csv(comment="#"), "source.comment"),
        ({"source": {"format": "parquet", "delimiter": ";"}}, "source"),
        ({"source": {"format": "xlsx"}}, "source.format"),
        (at(column="at", format="%Q"), "event_timestamp.format"),
        (at(column="at", format="%H:%M", zone="UTC"), "event_timestamp.format"),
        (at(column="at", format="%d.%m. %H:%M", zone="UTC"), "event_timestamp.format"),
        (at(column="at", format="%Y-%m-%d %Z"), "event_timestamp.format"),
        (at(column="at", format="%Y-%m-%d 100%"), "event_timestamp.format"),
        (at(column="at"), "the whole file"),
        (at(format="ISO8601"), "event_timestamp"),
        (at(column="at", columns=["x"], format="ISO8601"), "event_timestamp"),
        (at(columns=["d", "t"]), "event_timestamp"),
        (at(columns=["d", "t"], unit="s"), "event_timestamp"),
        (at(column="at", unit="weeks"), "event_timestamp.unit"),
        (at(column="at", unit="s", zone="UTC"), "event_timestamp"),
        (at(column="at", unit="s", since="2016-01-01"), "event_timestamp.since"),
        (at(column="at", unit="s", since="2016-01-01T00:00:00"), "event_timestamp.since"),
        (at(column="at", format="ISO8601", since="2016-01-01T00:00:00Z"), "event_timestamp"),
        ({"amount": {"column": "usd", "remove": "$0"}}, "amount.remove"),
        ({"amount": {"column": "usd", "remove": "-"}}, "amount.remove"),
        ({"amount": {"column": "usd", "remove": "."}}, "the whole file"),
        ({"amount": {"column": "usd", "scale": float("nan")}}, "amount.scale"),
        ({"label": {"column": "bad", "fraud": [True]}}, "label.fraud.0"),
        ({"label": {"column": "bad", "fraud": ["1.0"], "legitimate": ["TRUE"]}}, "label"),
        ({"label": {"column": "bad", "known_at": {"column": "x"}}}, "the whole file"),
        ({"user_id": "user"}, "user_id"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, changes: dict[str, object], key: str) -> None:
    with pytest.raises(BadConfigError) as caught:
        load(tmp_path, **changes)
    assert caught.value.message == f"{tmp_path / 'mapping.yaml'}: {key}"
    assert caught.value.expected
    assert "docs/data.md" in caught.value.hint


def test_a_text_that_yaml_reads_as_something_else_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadConfigError, match="only in quotes"):
        load(tmp_path, label={"column": "bad", "fraud": [1]})


@pytest.mark.parametrize(
    "repeated", ["amount: {column: eur}\n", "label: {column: bad, delay_days: 1, delay_days: 2}\n"]
)
def test_a_key_that_is_given_twice_is_named(tmp_path: Path, repeated: str) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(yaml.safe_dump(GOOD) + repeated)
    with pytest.raises(BadConfigError, match="is not YAML") as caught:
        Mapping.load(path, THREE)
    assert ("amount twice" in caught.value.got) or ("delay_days twice" in caught.value.got)


@pytest.mark.parametrize("text", ["", "- a", "just text", "42"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    with pytest.raises(BadConfigError, match="the whole file"):
        Mapping.load(path, THREE)


@pytest.mark.parametrize(
    "time",
    [
        {"column": "at", "format": "%d/%m/%y %I:%M %p", "zone": "UTC"},
        {"column": "at", "format": "%Y-%j", "zone": "UTC"},
        {"column": "at", "format": "%b %d %Y %H:%M:%S.%f %z"},
        {"columns": ["d", "t"], "format": "%Y%m%d-%H%M%S", "zone": "UTC"},
        {"column": "at", "unit": "d", "since": datetime(2016, 1, 1, tzinfo=UTC)},
        {"column": "at", "unit": "h", "since": "2016-01-01T00:00:00+01:00"},
    ],
)
def test_times_that_can_be_read_are_accepted(tmp_path: Path, time: dict[str, object]) -> None:
    assert load(tmp_path, event_timestamp=time).event_timestamp.reads == tuple(time.get("columns", ["at"]))  # type: ignore[arg-type]


def test_a_mapping_in_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    text = yaml.safe_dump(GOOD | {"merchant_id": {"column": "Händler"}}, allow_unicode=True)
    path.write_bytes(text.encode("cp1252"))
    with pytest.raises(BadConfigError, match="is not UTF-8"):
        Mapping.load(path, THREE)


def test_a_mapping_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    load(tmp_path, merchant_id={"column": "Händler"})
    program = """
import sys; from pathlib import Path; from fraud.declaration_file import load
from fraud.ingest.mapping.mapping import Mapping
print(ascii(Mapping.load(Path(sys.argv[1]), load(Path(sys.argv[2]))).merchant_id.column))
"""
    told = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "mapping.yaml", ROOT / "tests/declarations/three.yaml"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )
    assert told.stdout == "'H\\xe4ndler'\n"


def test_it_reads_each_column_once_and_knows_what_each_is_for(tmp_path: Path) -> None:
    mapping = load(
        tmp_path,
        transaction_id={"columns": ["id", "at"]},
        label={"column": "bad", "known_at": {"column": "told", "unit": "s"}},
        distance_from_home={"great_circle": {"home": ["a", "b"], "merchant": ["c", "d"]}},
    )
    assert mapping.reads == ("id", "at", "user", "shop", "usd", "a", "b", "c", "d", "bad", "told")
    assert mapping.origins["created_timestamp"] == ("at",)
    assert "merchant_category" not in mapping.origins
    assert mapping.origins["label_timestamp"] == ("told",)
