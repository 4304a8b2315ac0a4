"""The committed mappings bring samples of public data sets, written for these tests, whole through ingest."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import structlog

from fraud.declaration_file import load
from fraud.ingest import import_data, ingest_labels, ingest_transactions
from fraud.job import Context
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
THREE = load(ROOT / "tests/declarations/three.yaml")
SAMPLES = Path(__file__).parent / "public_formats"
FIRST = {
    # 2021-01-01 06:00, cards are counted by customer.
    "tabformer": {
        "transaction_id": "0-0-2021-1-1-06:00--3000000000000000000-$12.00", "user_id": "0-0",
        "merchant_id": "-3000000000000000000", "event_timestamp": datetime(2021, 1, 1, 6, tzinfo=UTC),
        "merchant_category": "grocery_pos", "amount": 12.0, "distance_from_home": None,
    },
    # 90,000 seconds are a day and an hour.
    "ieee_cis": {
        "transaction_id": "5000001", "user_id": "4000", "merchant_id": "unknown",
        "event_timestamp": datetime(2017, 12, 2, 1, tzinfo=UTC), "merchant_category": None, "amount": 20.0,
        "distance_from_home": None,
    },
    # The first hour.
    "paysim": {
        "transaction_id": "1-PAYMENT-C7000000-M9000000-150.25", "user_id": "C7000000", "merchant_id": "M9000000",
        "event_timestamp": datetime(2016, 1, 1, 1, tzinfo=UTC), "merchant_category": None, "amount": 150.25,
        "distance_from_home": None,
    },
    "banksim": {
        "transaction_id": "0-C5000000-M340000-es_transportation-4.55", "user_id": "C5000000", "merchant_id": "M340000",
        "event_timestamp": datetime(2012, 11, 1, tzinfo=UTC), "merchant_category": "gas_transport", "amount": 4.55,
        "distance_from_home": None,
    },
    # Half a degree of latitude; a degree is a 360th of the circumference, 24,874 miles on the sphere of 6,371 km.
    "sparkov": {
        "transaction_id": "0" * 32, "user_id": "30000000000000", "merchant_id": "fraud_Muster, Sample and Sons",
        "event_timestamp": datetime(2019, 1, 1, tzinfo=UTC), "merchant_category": "grocery_pos", "amount": 5.0,
        "distance_from_home": pytest.approx(34.55, abs=0.02),
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("sample", "mapping", "accepted", "frauds"),
    [
        ("tabformer", "tabformer", 19, 2),  # a refund is quarantined
        ("ieee_cis", "ieee_cis", 20, 3),
        ("paysim", "paysim", 19, 2),  # an amount of 0
        ("banksim", "banksim", 19, 1),  # an amount of 0
        ("sparkov", "sparkov_csv", 20, 2),
    ],
)
def test_a_public_format_is_read_by_its_mapping(
    tmp_path: Path, sample: str, mapping: str, accepted: int, frauds: int
) -> None:
    settings = Settings(home=tmp_path, project=ROOT)
    context = Context(settings, Params.load(ROOT / "params.yaml"), THREE, structlog.get_logger())
    config = import_data.Config(source=str(SAMPLES / f"{sample}.csv"), mapping=ROOT / f"mappings/{mapping}.yaml")
    result = import_data.run(config, context)
    assert isinstance(result, import_data.Result)
    assert (result.rows_in, result.labels, result.unreadable, result.unreadable_labels) == (20, 20, 0, 0)
    files = sorted((tmp_path / "landing/transactions").rglob("*.parquet"))
    first = pq.ParquetFile(files[0]).read().to_pylist()[0]
    assert {name: first[name] for name in FIRST[sample]} == FIRST[sample]
    now = datetime(2026, 1, 1, tzinfo=UTC)
    taken = ingest_transactions.run(ingest_transactions.Config(now=now), context)
    assert (taken.accepted, taken.quarantined, taken.duplicates) == (accepted, 20 - accepted, 0)
    assert ingest_labels.run(ingest_labels.Config(now=now), context).accepted == 20
    labels = [pq.ParquetFile(file).read() for file in (tmp_path / "landing/labels").rglob("*.parquet")]
    assert sum(sum(table["is_fraud"].to_pylist()) for table in labels) == frauds


def test_every_committed_mapping_of_a_public_format_is_documented() -> None:
    page = (ROOT / "docs/data.md").read_text()
    mappings = sorted(path.name for path in (ROOT / "mappings").glob("*.yaml"))
    assert [name for name in mappings if f"`mappings/{name}`" not in page] == []
