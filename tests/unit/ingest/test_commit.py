"""Two ingests of one feed at once: the one that merged with an older version gives up, and ingests again."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
import structlog

from fraud.declaration_file import load
from fraud.ingest import ingest_labels
from fraud.ingest.commit import Batch, FileCounts, Ledger, stage
from fraud.ingest.delivery import delivering
from fraud.ingest.landing import schema
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.table import ConflictError
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).parents[3]
THREE = load(ROOT / "tests/declarations/three.yaml")
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)


def labels(*ids: str) -> pa.Table:
    return pa.table([ids, [True] * len(ids), [NOON] * len(ids)], schema=catalog.LABEL_SCHEMA)


def test_a_batch_that_was_merged_with_an_older_version_is_given_up_without_a_trace(tmp_path: Path) -> None:
    lake = f"file://{tmp_path}/lake"
    dataset, quarantine, ledger = catalog.LABELS.at(lake), catalog.QUARANTINE.at(lake), Ledger(lake, "labels")
    base = dataset.open().number
    counts = FileCounts(name="f", sha256="0" * 64, rows=2, accepted=1, quarantined=1, duplicates=0)
    staged = (
        stage(quarantine, "0" * 64, pa.table({"reason": ["bad"]}), None),
        stage(dataset, "2025-03-01", labels("a"), base),
    )
    dataset.publish("2025-03-01", labels("b"))
    with pytest.raises(ConflictError, match="another job committed"):
        ledger.commit(Batch(files=(counts,), partitions=staged, reasons={}, facts={}))
    assert (ledger.unfinished(), ledger.ingested(), quarantine.partitions()) == (None, set(), [])
    assert dataset.read("2025-03-01")["transaction_id"].to_pylist() == ["b"]


def test_an_ingest_that_another_one_overtook_is_repeated_by_a_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(Settings(home=tmp_path), Params.load(ROOT / "params.yaml"), THREE, structlog.get_logger())
    rows = [{"transaction_id": "a", "is_fraud": True, "label_timestamp": NOON}]
    with delivering(context.settings.landing_uri) as delivery:
        delivery.add("labels", "2025-03-01", "test", pa.Table.from_pylist(rows, schema("labels", THREE)))
    config, dataset = (
        ingest_labels.Config(now=datetime(2025, 6, 1, tzinfo=UTC)),
        catalog.LABELS.at(f"file://{tmp_path}/lake"),
    )
    commit = Ledger.commit

    def overtaken(ledger: Ledger, batch: Batch) -> None:
        dataset.publish("2025-03-01", labels("b"))
        commit(ledger, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", overtaken)
        with pytest.raises(ConflictError):
            ingest_labels.run(config, context)
    assert ingest_labels.run(config, context).accepted == 1
    assert sorted(dataset.read("2025-03-01")["transaction_id"].to_pylist()) == ["a", "b"]
