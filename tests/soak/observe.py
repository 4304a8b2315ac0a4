"""Read the state of a stack after a night, from the lake, the landing zone, the registry, serving and the processes."""

import random
import time
from contextlib import suppress
from typing import Any, Final

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tests.soak.platform import Platform
from tests.soak.state import Answers, Audit, Feed, Monitors, Registry, Scores, Skew
from tests.soak.world import Landing

from fraud.audit import receipt, replay
from fraud.embedded.servers.airflow_api import Run
from fraud.errors import RefusedError
from fraud.ingest.commit import Ledger
from fraud.ingest.landing import Feed as FeedName
from fraud.lake import catalog
from fraud.lake.catalog import DatasetDefinition
from fraud.registry import mlflow_client
from fraud.registry.model_versions import MODEL_NAME, PRODUCTION
from fraud.registry.promotion_log import EXPORT, opened
from fraud.settings import Settings

SERVED: Final = 5
"""Sampled answers: newest and any, half and half."""
NIGHTLY: Final = 3
_SWAP_S: Final = 60.0
_KEYS: Final[dict[FeedName, tuple[DatasetDefinition, list[str]]]] = {
    "transactions": (catalog.TRANSACTIONS, ["transaction_id"]),
    "labels": (catalog.LABELS, ["transaction_id", "label_timestamp", "is_fraud"]),
}


def feeds(settings: Settings, landing: Landing) -> dict[str, Feed]:
    """Counts of both feeds."""
    found, lake = {}, settings.lake_uri
    for name, (definition, key) in _KEYS.items():
        files = list(Ledger(lake, name)._files())
        table = _all(definition, lake, key)
        found[name] = Feed(
            delivered=landing.rows(name), rows=sum(f.rows for f in files), accepted=sum(f.accepted for f in files),
            quarantined=sum(f.quarantined for f in files), duplicates=sum(f.duplicates for f in files),
            in_lake=table.num_rows, ids=table.group_by(key).aggregate([]).num_rows,
        )  # fmt: skip
    return found


def scores(settings: Settings) -> Scores:
    """Scores and transactions of the days from the first scored one, by id."""
    lake = settings.lake_uri
    scored, paid = catalog.SCORES.at(lake).open(), catalog.TRANSACTIONS.at(lake).open()
    first = min(scored.partitions(), default="9999")
    days = [day for day in paid.partitions() if day >= first]
    rows = unscored = unknown = 0
    for day in sorted({*days, *scored.partitions()}):
        ids = paid.read(day, ["transaction_id"])["transaction_id"] if day in days else pa.array([], pa.string())
        given = scored.read(day, ["transaction_id"])["transaction_id"] if scored.partition(day) else ids.slice(0, 0)
        rows += len(given)
        unscored += len(ids) - (pc.sum(pc.is_in(ids, given)).as_py() or 0)
        unknown += len(given) - (pc.sum(pc.is_in(given, ids)).as_py() or 0)
    return Scores(len(scored.partitions()), rows, unscored, unknown)


def answers(platform: Platform, sent: dict[str, Any], paid: pa.Table, unreadable: int) -> Answers:
    """The result of `fraud traffic`, and the day's payments without a record in the lake. Needs shipped answers."""
    recorded = _all(catalog.PREDICTIONS, platform.settings.lake_uri, ["transaction_id"])["transaction_id"]
    unlogged = paid.num_rows - (pc.sum(pc.is_in(paid["transaction_id"], recorded)).as_py() or 0)
    return Answers(
        sent=sent["sent"], answered=sent["answered"], degraded=sent["degraded"], resent=sent["resent"],
        flagged=sent["flagged_fraud"], unlogged=unlogged, unreadable=unreadable, repeats=sent["repeats"],
    )  # fmt: skip


def skew(platform: Platform) -> Skew:
    """Run `fraud skew`. A day whose check is up to date is read from its report."""
    found = platform.job("skew")
    wrong = int(found["probabilities"].get("wrong", 0))
    return Skew(
        found["records"], found["compared"], found["mismatches"], found["events_lost"], wrong, found["skipped"]
    )  # fmt: skip


def registry(platform: Platform) -> Registry:
    """Production from every source. Waits until serving has had time to swap."""
    with opened(platform.settings) as promotion:
        changes = [row.entry for row in promotion.entries() if row.entry.action != EXPORT]
        try:
            promotion.verify()
            chain = ""
        except RefusedError as error:
            chain = str(error)
        alias = promotion.version(PRODUCTION)
    with mlflow_client.registry_errors():
        versions = mlflow_client.client(platform.settings).search_model_versions(f"name='{MODEL_NAME}'")
    newest = max(versions, key=lambda version: int(version.version))
    in_history = changes[-1].version if changes else ""
    return Registry(
        chain=chain, changes=len(changes), in_history=in_history, alias=str(alias.version) if alias else "",
        in_stage=tuple(str(v.version) for v in versions if v.current_stage == "Production"),
        served=served(platform, in_history), versions=len(versions), candidate=str(newest.version),
        failed_gates=tuple(name for name in newest.tags.get("failed_gates", "").split(",") if name),
    )  # fmt: skip


def served(platform: Platform, expected: str) -> str:
    """The version that serving answers with: `expected`, if it loads that within a minute; "" without an answer."""
    url, deadline = f"{platform.stack.url('serving')}/model", time.monotonic() + _SWAP_S
    while True:
        found = ""
        with suppress(httpx.HTTPError):
            found = str(httpx.get(url, timeout=10).raise_for_status().json()["model_version"])
        if found == expected or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def audit(platform: Platform, rng: random.Random) -> Audit:
    """Receipts and replays of a sample: newest and other answers, rows of the newest scored day."""
    lake = platform.settings.lake_uri
    recorded = catalog.PREDICTIONS.at(lake).open()
    days = recorded.partitions()
    table = pa.concat_tables([recorded.read(day, ["prediction_id", "served_us"]) for day in days])
    ids = table.sort_by([("served_us", "descending")])["prediction_id"].to_pylist()
    chosen = [*ids[: SERVED // 2], *rng.sample(ids, min(len(ids), SERVED - SERVED // 2))]
    nightly = catalog.SCORES.at(lake).open()
    rows = nightly.read(nightly.partitions()[-1], ["transaction_id"])["transaction_id"].to_pylist()
    chosen = list(dict.fromkeys([*chosen, *rng.sample(rows, min(len(rows), NIGHTLY))]))
    problems = tuple(
        f"{found.prediction_id}: {', '.join(found.problems)}"
        for found in receipt.follow(chosen, platform.context)
        if found.problems
    )
    try:
        replayed = replay.run(replay.Config(ids=tuple(chosen)), platform.context)
        return Audit(len(chosen), problems, sum(replayed.equal.values()), ())
    except RefusedError as error:
        return Audit(len(chosen), problems, 0, (str(error),))


def monitors(platform: Platform, runs: list[Run]) -> Monitors:
    """The newest results of both drift monitors in these runs."""
    drift = platform.result(runs, "monitor_drift", "drift")
    concept = platform.result(runs, "monitor_drift", "concept_drift")
    found: dict[str, Any] = {}
    if drift is not None:
        found |= {"drift": drift["verdict"], "drifted_share": drift["drifted_share"]}
    if concept is not None:
        found |= {"concept": concept["verdict"], "evidence": concept["evidence"], "limit": concept["limit"]}
    return Monitors(**found)


def _all(definition: DatasetDefinition, lake: str, columns: list[str]) -> pa.Table:
    opened_ = definition.at(lake).open()
    parts = [opened_.read(day, columns) for day in opened_.partitions()]
    return pa.concat_tables(parts) if parts else pa.table({name: pa.array([], pa.string()) for name in columns})


def payments(path: Any) -> pa.Table:  # noqa: ANN401 - what pyarrow takes as a file
    """Ids of the day's payments."""
    return pq.read_table(path, columns=["transaction_id"])
