"""Import: anybody's file becomes landing files, or an error that says what to do; no row is ever lost."""

import gzip
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog
import yaml

from fraud.declaration_file import load
from fraud.errors import BadConfigError, BadInputError
from fraud.ingest import import_data, ingest_labels, ingest_transactions
from fraud.job import Context
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).parents[3]
THREE = load(ROOT / "tests/declarations/three.yaml")
EXTERNAL = Path(os.environ.get("FRAUD_EXTERNAL_DATA", ROOT / "../shared/data")).resolve()
needs_external_data = pytest.mark.skipif(
    not EXTERNAL.is_dir(),
    reason=f"NOT TESTED: the committed mappings against real exports. {EXTERNAL} is not there; "
    "FRAUD_EXTERNAL_DATA names the folder",
)

CSV = {
    "name": "shop",
    "source": {"format": "csv"},
    "transaction_id": {"columns": ["shop", "receipt"], "prefix": "s-"},
    "event_timestamp": {"column": "paid", "format": "%d.%m.%Y %H:%M", "zone": "Europe/Berlin"},
    "user_id": {"column": "card"},
    "merchant_id": {"constant": "the-shop"},
    "merchant_category": {"column": "kind", "map": {"Lebensmittel": "grocery"}},
    "amount": {"column": "cents", "scale": 0.01},
    "distance_from_home": {"column": "km", "unit": "kilometres"},
    "label": {"column": "bad", "fraud": ["yes"], "legitimate": ["no"], "delay_days": 2},
}
HEADER = "shop,receipt,paid,card,kind,cents,km,bad\n"
GOOD = "7,1001,01.03.2025 12:00,c1,Lebensmittel,1999,1.609344,no\n"


def context(home: Path) -> Context:
    settings = Settings(home=home, project=ROOT)
    return Context(settings, Params.load(ROOT / "params.yaml"), THREE, structlog.get_logger())


def mapping_file(folder: Path, **changes: object) -> Path:
    path = folder / "mapping.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (CSV | changes).items() if v is not None}))
    return path


def bring(home: Path, source: Path | str, mapping: Path, hold_back: int = 0) -> import_data.Result:
    config = import_data.Config(source=str(source), mapping=mapping, hold_back_days=hold_back)
    result = import_data.run(config, context(home))
    assert result.rows_in == result.transactions + result.held_back_transactions + result.known_transactions
    return result


def bring_text(home: Path, text: str, **changes: object) -> list[dict[str, object]]:
    """Import a CSV of this text; the landed transactions in order of day."""
    source = home / "source.csv"
    source.write_text(text)
    bring(home, source, mapping_file(home, **changes))
    return landed(home, "transactions")


def landed(home: Path, feed: str) -> list[dict[str, object]]:
    files = sorted((home / "landing" / feed).rglob("*.parquet"))
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def test_a_csv_row_comes_out_in_the_contracts_terms(tmp_path: Path) -> None:
    [row] = bring_text(tmp_path, HEADER + GOOD)
    at = datetime(2025, 3, 1, 11, tzinfo=UTC)  # Berlin is one hour ahead in winter
    assert row == {
        "transaction_id": "s-7-1001", "event_timestamp": at, "created_timestamp": at, "user_id": "c1",
        "merchant_id": "the-shop", "merchant_category": "grocery", "amount": pytest.approx(19.99),
        "distance_from_home": pytest.approx(1.0), "parse_error": None,
    }  # fmt: skip
    [label] = landed(tmp_path, "labels")
    assert label == {
        "transaction_id": "s-7-1001", "is_fraud": False, "parse_error": None,
        "label_timestamp": datetime(2025, 3, 3, 11, tzinfo=UTC),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("local", "utc"),
    [
        ("01.07.2025 12:00", datetime(2025, 7, 1, 10, tzinfo=UTC)),
        ("26.10.2025 02:30", datetime(2025, 10, 26, 0, 30, tzinfo=UTC)),  # happened twice: the first one
        ("30.03.2025 02:30", datetime(2025, 3, 30, 1, 0, tzinfo=UTC)),  # never happened: clocks went from 2 to 3
    ],
)
def test_local_time_follows_its_zones_daylight_saving(tmp_path: Path, local: str, utc: datetime) -> None:
    [row] = bring_text(tmp_path, HEADER + GOOD.replace("01.03.2025 12:00", local))
    assert row["event_timestamp"] == utc


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("1999", "abc", "amount: not a number: 'abc'"),
        ("1999", "NaN", "amount: not a number: 'NaN'"),
        (
            "01.03.2025 12:00",
            "2025-03-01",
            "event_timestamp: not a time like %d.%m.%Y %H:%M between the years 1900 and 2200: '2025-03-01'",
        ),
        ("1.609344", "far", "distance_from_home: not a number: 'far'"),
    ],
)
def test_a_value_that_cannot_be_read_is_null_and_the_row_says_why(
    tmp_path: Path, old: str, new: str, error: str
) -> None:
    second = GOOD.replace("1001", "1002")
    rows = bring_text(tmp_path, HEADER + GOOD.replace(old, new) + second)
    assert sorted(str(row["parse_error"]) for row in rows) == sorted([error, "None"])
    result = ingest_transactions.run(
        ingest_transactions.Config(now=datetime(2025, 6, 1, tzinfo=UTC)), context(tmp_path)
    )
    assert (result.rows_in, result.accepted, result.quarantined) == (2, 1, 1)


def test_two_unreadable_values_are_both_named(tmp_path: Path) -> None:
    second = GOOD.replace("1001", "1002").replace("1999", "x").replace("1.609344", "y")
    [_, row] = bring_text(tmp_path, HEADER + GOOD + second)
    assert row["parse_error"] == "amount: not a number: 'x'; distance_from_home: not a number: 'y'"


def test_an_empty_value_is_null_and_no_parse_error(tmp_path: Path) -> None:
    [row] = bring_text(tmp_path, HEADER + GOOD.replace("1.609344", "").replace("c1", ""))
    assert (row["user_id"], row["distance_from_home"], row["parse_error"]) == (None, None, None)


def test_a_line_with_the_wrong_number_of_values_is_kept_as_a_row_that_cannot_be_read(tmp_path: Path) -> None:
    rows = bring_text(tmp_path, HEADER + GOOD + "7,1002,cut off\n" + GOOD.replace("1001", "1003"))
    assert len(rows) == 3
    assert rows[-1]["parse_error"] == "row: 3 values in a row of 8 columns: 7,1002,cut off"
    result = ingest_transactions.run(
        ingest_transactions.Config(now=datetime(2025, 6, 1, tzinfo=UTC)), context(tmp_path)
    )
    assert (result.accepted, result.quarantined) == (2, 1)


def test_a_verdict_that_cannot_be_read_is_quarantined_in_its_own_feed(tmp_path: Path) -> None:
    lines = [
        GOOD,
        GOOD.replace("1001", "1002").replace(",no", ",maybe"),
        GOOD.replace("1001", "1003").replace(",no", ","),
    ]
    bring_text(tmp_path, HEADER + "".join(lines))
    now = datetime(2025, 6, 1, tzinfo=UTC)
    assert ingest_transactions.run(ingest_transactions.Config(now=now), context(tmp_path)).accepted == 3
    labels = ingest_labels.run(ingest_labels.Config(now=now), context(tmp_path))
    assert (labels.rows_in, labels.accepted, labels.quarantined) == (2, 1, 1)  # no verdict, no label
    assert labels.quarantine_reasons == {"a value could not be read": 1, "is_fraud is missing": 1}


def test_rows_out_of_order_land_in_the_file_of_their_day(tmp_path: Path) -> None:
    days = ["03", "01", "02", "01", "03"]
    lines = [GOOD.replace("01.03", f"{day}.03").replace("1001", str(n)) for n, day in enumerate(days)]
    rows = bring_text(tmp_path, HEADER + "".join(lines))
    assert [row["transaction_id"] for row in rows] == ["s-7-1", "s-7-3", "s-7-2", "s-7-0", "s-7-4"]
    names = sorted(p.parent.name for p in (tmp_path / "landing/transactions").rglob("*.parquet"))
    assert names == ["dt=2025-03-01", "dt=2025-03-02", "dt=2025-03-03"]


def test_other_delimiters_encodings_and_currency_signs_are_a_matter_of_the_mapping(tmp_path: Path) -> None:
    source = tmp_path / "source.csv"
    text = (HEADER + GOOD).replace(",", ";").replace("c1", "Zoë").replace("1999", "$1 999")
    source.write_bytes(text.encode("latin-1"))
    mapping = mapping_file(
        tmp_path, source={"format": "csv", "delimiter": ";", "encoding": "latin-1"},
        amount={"column": "cents", "scale": 0.01, "remove": "$ "},
    )  # fmt: skip
    bring(tmp_path, source, mapping)
    [row] = landed(tmp_path, "transactions")
    assert (row["user_id"], row["amount"]) == ("Zoë", pytest.approx(19.99))


def test_a_second_import_writes_the_same_bytes(tmp_path: Path) -> None:
    bring_text(tmp_path, HEADER + GOOD)
    files = {p: p.read_bytes() for p in (tmp_path / "landing").rglob("*.parquet")}
    bring_text(tmp_path, HEADER + GOOD)
    assert {p: p.read_bytes() for p in (tmp_path / "landing").rglob("*.parquet")} == files


def test_held_back_days_take_the_labels_from_then_on_with_them(tmp_path: Path) -> None:
    source = tmp_path / "source.csv"
    lines = [GOOD.replace("01.03", f"{day:02}.03").replace("1001", str(day)) for day in range(1, 6)]
    source.write_text(HEADER + "".join(lines))
    result = bring(tmp_path, source, mapping_file(tmp_path), hold_back=1)
    assert (result.transactions, result.held_back_transactions) == (4, 1)
    # Known after two days: those of the first to third day on the third to fifth, which is held back, and so on.
    assert (result.labels, result.held_back_labels) == (2, 3)
    assert (result.first_day, result.last_day) == ("2025-03-01", "2025-03-04")
    with pytest.raises(BadInputError, match="no day would be left to land"):
        bring(tmp_path, source, mapping_file(tmp_path), hold_back=5)


def parquet(folder: Path, **columns: pa.Array) -> Path:
    path = folder / "source.parquet"
    good = {
        "id": pa.array(["a", "b"]), "at": pa.array([0, 86_400_000_000], pa.timestamp("us", "UTC")).cast(
            pa.timestamp("ms", "Asia/Tokyo")), "user": pa.array([1, 2]), "shop": pa.array(["m", "m"]),
        "kind": pa.array(["travel", "travel"]).dictionary_encode(), "usd": pa.array([1.5, None]),
    }  # fmt: skip
    pq.write_table(pa.table(good | columns), path)
    return path


PARQUET = {
    "name": "bank", "source": {"format": "parquet"}, "transaction_id": {"column": "id"},
    "event_timestamp": {"column": "at"}, "user_id": {"column": "user"}, "merchant_id": {"column": "shop"},
    "merchant_category": {"column": "kind"}, "amount": {"column": "usd"}, "distance_from_home": None, "label": None,
}  # fmt: skip


def test_parquet_keeps_its_types_and_its_zone(tmp_path: Path) -> None:
    bring(tmp_path, parquet(tmp_path), mapping_file(tmp_path, **PARQUET))
    first, second = landed(tmp_path, "transactions")
    assert (first["user_id"], first["event_timestamp"]) == ("1", datetime(1970, 1, 1, tzinfo=UTC))
    assert (second["amount"], second["parse_error"], second["distance_from_home"]) == (None, None, None)
    assert not (tmp_path / "landing/labels").exists()


def test_epoch_numbers_count_in_utc(tmp_path: Path) -> None:
    source = parquet(tmp_path, at=pa.array([1_740_830_400, 1_740_830_401]))
    bring(tmp_path, source, mapping_file(tmp_path, **PARQUET | {"event_timestamp": {"column": "at", "unit": "s"}}))
    assert landed(tmp_path, "transactions")[0]["event_timestamp"] == datetime(2025, 3, 1, 12, tzinfo=UTC)


def test_impossible_coordinates_are_named(tmp_path: Path) -> None:
    degrees = {"lat": pa.array([91.0, 40.0]), "lon": pa.array([0.0, -75.0])}
    circle = {"great_circle": {"home": ["lat", "lon"], "merchant": ["lat", "lon"]}}
    bring(tmp_path, parquet(tmp_path, **degrees), mapping_file(tmp_path, **PARQUET | {"distance_from_home": circle}))
    first, second = landed(tmp_path, "transactions")
    assert "lat is not a coordinate: '91'" in str(first["parse_error"])
    assert (second["distance_from_home"], second["parse_error"]) == (0.0, None)


@pytest.mark.parametrize("said", ["is not there", "is empty"])
def test_a_source_that_is_missing_or_empty_is_named(tmp_path: Path, said: str) -> None:
    source = tmp_path / "source.csv"
    if said == "is empty":
        source.touch()
    with pytest.raises(BadInputError, match=said):
        bring(tmp_path, source, mapping_file(tmp_path))


def test_a_header_alone_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="has no rows"):
        bring_text(tmp_path, HEADER)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="lacks receipt, cents") as caught:
        bring_text(tmp_path, HEADER.replace("receipt", "bon").replace("cents", "amount") + GOOD)
    assert "bon" in caught.value.got
    assert caught.value.hint


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="several columns named card"):
        bring_text(tmp_path, HEADER.replace("kind", "card") + GOOD, merchant_category={"constant": "grocery"})


def test_a_truncated_gzip_lands_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source.csv.gz"
    packed = gzip.compress((HEADER + "".join(GOOD.replace("1001", str(n)) for n in range(5_000))).encode())
    source.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(BadInputError, match="cannot be read completely"):
        bring(tmp_path, source, mapping_file(tmp_path))
    assert not (tmp_path / "landing").exists()


def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    source = parquet(tmp_path)
    source.write_bytes(source.read_bytes()[:-20])
    with pytest.raises(BadInputError, match="cannot be read completely"):
        bring(tmp_path, source, mapping_file(tmp_path, **PARQUET))


def test_text_that_is_not_in_the_stated_encoding_is_named(tmp_path: Path) -> None:
    source = tmp_path / "source.csv"
    source.write_bytes((HEADER + GOOD).replace("c1", "Zoë").encode("latin-1"))
    with pytest.raises(BadInputError, match="cannot be read") as caught:
        bring(tmp_path, source, mapping_file(tmp_path))
    assert "source.encoding" in caught.value.hint


def test_a_column_of_the_wrong_type_is_named(tmp_path: Path) -> None:
    source = parquet(tmp_path, usd=pa.array([True, False]))
    with pytest.raises(BadInputError, match="column usd has the wrong type"):
        bring(tmp_path, source, mapping_file(tmp_path, **PARQUET))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"amount": {"column": "cents", "sacle": 0.01}}, "amount.sacle"),
        ({"amount": {"column": "cents", "scale": 0}}, "amount.scale"),
        ({"amount": None}, "amount"),
        ({"event_timestamp": {"column": "paid", "format": "%d.%m.%Y %H:%M"}}, "event_timestamp"),
        ({"event_timestamp": {"column": "paid", "format": "%d.%m.%Y %z", "zone": "UTC"}}, "event_timestamp"),
        ({"event_timestamp": {"column": "paid", "format": "ISO8601", "zone": "Mars/Olympus"}}, "event_timestamp.zone"),
        ({"merchant_category": {"column": "kind", "map": {"a": "groceries"}}}, "merchant_category"),
        ({"user_id": {"column": "card", "constant": "x"}}, "user_id"),
        ({"distance_from_home": {"column": "km"}}, "distance_from_home"),
        ({"label": {"column": "bad", "fraud": ["1"], "legitimate": ["1"]}}, "label"),
        ({"name": "Not A File Name"}, "name"),
    ],
)
def test_a_wrong_mapping_names_its_file_and_key(tmp_path: Path, changes: dict[str, object], key: str) -> None:
    with pytest.raises(BadConfigError, match=rf"(?m)mapping\.yaml: {re.escape(key)}$") as caught:
        bring_text(tmp_path, HEADER + GOOD, **changes)
    assert caught.value.expected


def test_a_mapping_that_is_not_there_or_no_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfigError, match="is not there"):
        bring(tmp_path, "x.csv", tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(BadConfigError, match="is not YAML"):
        bring(tmp_path, "x.csv", broken)


def test_a_file_of_times_without_any_zone_is_refused_with_the_key_that_can_give_it(tmp_path: Path) -> None:
    naive = HEADER + GOOD.replace("01.03.2025 12:00", "2025-03-01T12:00:00")
    with pytest.raises(BadInputError, match="no row") as caught:
        bring_text(tmp_path, naive, event_timestamp={"column": "paid", "format": "ISO8601"})
    assert "event_timestamp: no time zone (the mapping can give it, as event_timestamp.zone)" in caught.value.got


def test_parquet_times_without_zone_need_one_and_those_with_need_none(tmp_path: Path) -> None:
    naive = parquet(tmp_path, at=pa.array([0, 1], pa.timestamp("us")))
    with pytest.raises(BadConfigError, match=r"event_timestamp\.zone is missing"):
        bring(tmp_path, naive, mapping_file(tmp_path, **PARQUET))
    stated = mapping_file(tmp_path, **PARQUET | {"event_timestamp": {"column": "at", "zone": "UTC"}})
    with pytest.raises(BadConfigError, match="has the zone Asia/Tokyo"):
        bring(tmp_path, parquet(tmp_path), stated)


def test_a_single_time_without_zone_among_others_is_a_row_that_cannot_be_read(tmp_path: Path) -> None:
    iso = {"column": "paid", "format": "ISO8601"}
    lines = [GOOD.replace("01.03.2025 12:00", t) for t in ("2025-03-01T12:00:00+02:00", "2025-03-01T12:00:00")]
    good, bad = bring_text(tmp_path, HEADER + "".join(lines), event_timestamp=iso)
    assert good["event_timestamp"] == datetime(2025, 3, 1, 10, tzinfo=UTC)
    given = "no time zone (the mapping can give it, as event_timestamp.zone)"
    assert bad["parse_error"] == f"event_timestamp: {given}: '2025-03-01T12:00:00'"


@needs_external_data
@pytest.mark.parametrize(
    ("source", "mapping"),
    [("transactions_2019.parquet", "sparkov_parquet.yaml"), ("transactions_2019_jan_feb.csv.gz", "sparkov_csv.yaml")],
)
def test_the_committed_mappings_bring_a_slice_of_the_real_exports_whole_through_ingest(
    tmp_path: Path, source: str, mapping: str
) -> None:
    rows = 5_000
    original = EXTERNAL / "sparkov" / source
    piece = tmp_path / source
    if source.endswith(".parquet"):
        with pq.ParquetFile(original) as file:
            pq.write_table(pa.table(next(file.iter_batches(rows))), piece)
    else:
        with gzip.open(original, "rb") as text, gzip.open(piece, "wb") as cut:
            cut.writelines(next(text) for _ in range(rows + 1))
    result = bring(tmp_path, piece, ROOT / "mappings" / mapping)
    assert (result.rows_in, result.labels, result.unreadable, result.without_day) == (rows, rows, 0, 0)
    now = datetime(2020, 6, 1, tzinfo=UTC)
    taken = ingest_transactions.run(ingest_transactions.Config(now=now), context(tmp_path))
    assert (taken.accepted, taken.quarantined, taken.duplicates, taken.unknown_categories) == (rows, 0, 0, {})
    labels = ingest_labels.run(ingest_labels.Config(now=now), context(tmp_path))
    assert (labels.accepted, labels.unknown_transactions) == (rows, 0)
    first = landed(tmp_path, "transactions")[0]
    # Both files begin with T000000000: home 41.7257 -87.556, merchant 41.027708 -88.465808; 48.22 miles of latitude
    # and 47.17 miles of longitude at that latitude make 67.5.
    assert (first["transaction_id"], first["amount"]) == ("T000000000", 8.78)
    assert first["distance_from_home"] == pytest.approx(67.5, abs=0.2)
