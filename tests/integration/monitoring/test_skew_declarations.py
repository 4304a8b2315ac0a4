"""`fraud skew` and `fraud replay` with versions of several declarations in one log, two entities and a daily table."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis
from tests.integration.monitoring.test_skew import MIDNIGHT, TODAY, Shop, Version
from tests.served_answers import THREE, TWO_ENTITIES, line

from fraud.audit import replay
from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.core.declaration import parse
from fraud.core.plan import Plan
from fraud.errors import RefusedError
from fraud.features import online_store
from fraud.features.daily_values import snapshot_id
from fraud.job import Context
from fraud.lake import catalog

SHORT_LIST = parse(
    json.loads(TWO_ENTITIES.canonical().replace('["web","app","other"]', '["app","other"]')), learnt=True
)
"""The same features, with a closed list that does not have `web`."""
[SHOPS] = Plan(TWO_ENTITIES).tables
REPLACED, GONE = "the daily snapshot was replaced", "the daily snapshot is no longer in the lake"
Make = Callable[..., Any]


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as connection:
        connection.flushdb()
        yield connection


@pytest.fixture
def shop(context: Context, client: redis.Redis, register: Make, linear_model: Make) -> Shop:
    """Three versions; the project has the declaration of the second."""
    versions = []
    for declaration in (THREE, TWO_ENTITIES, SHORT_LIST):
        model = linear_model(plan=Plan(declaration), card_count_1h=0.3, shop_fraud_rate_7d=9.0, channel_app=-0.5)
        versions.append(Version(context, register(model, declaration=declaration), model))
    return Shop(context, online_store.OnlineHistory(client), TWO_ENTITIES, *versions)


def publish_snapshot(shop: Shop, day: str, count: float = 3.0) -> str:
    """A snapshot of the shop m1 and the default row. Returns its id."""
    columns = {"merchant_id": ["m1", None], "shop_count_7d": [count, 0.0], "shop_mean_30d": [8.5, None],
               "shop_fraud_rate_7d": [0.1, 0.05]}  # fmt: skip
    table = pa.table(columns).select(["merchant_id", *SHOPS.names])
    return snapshot_id(catalog.daily(SHOPS).at(shop.context.settings.lake_uri).publish(day, table))


def payments(shop: Shop, count: int, first_us: int) -> list[dict[str, Any]]:
    """Payments with three cards and two terminals; a third has no terminal, and values are missing."""
    random = np.random.default_rng(11)

    def some(*values: object) -> Any:  # noqa: ANN401 - one of the values
        return values[int(random.integers(len(values)))]

    return [
        shop.transaction(
            f"card {random.integers(3)}", first_us + i * US_PER_HOUR // 5, round(float(random.lognormal(3, 1)), 4),
            f"m{random.integers(1, 3)}", channel=some("web", "app", "other"), country=some("de", "fr", "pl"),
            distance=some(None, 1.25, 7.5), terminal_id=some("a", "b", None), in_person=some(None, True, False),
        )
        for i in range(count)
    ]  # fmt: skip


@pytest.fixture
def past(shop: Shop) -> list[dict[str, Any]]:
    """Payments of the two days before today, in the lake and in the store."""
    rows = payments(shop, 200, MIDNIGHT - 2 * US_PER_DAY)
    shop.ingest(rows)
    shop.load()
    return rows


def serve_all(shop: Shop, rows: list[dict[str, Any]], snapshot: str) -> None:
    """Answered by the three versions in turn."""
    for i, row in enumerate(rows):
        shop.serve(row, shop.versions[i % 3], {"shop": snapshot})


@pytest.mark.usefixtures("past")
def test_answers_of_three_versions_are_each_recomputed_by_their_declaration(shop: Shop) -> None:
    snapshot = publish_snapshot(shop, str(TODAY))
    rows = payments(shop, 60, MIDNIGHT + 3 * US_PER_HOUR)
    serve_all(shop, rows, snapshot)
    shop.serve(rows[7], shop.versions[1], {"shop": snapshot})  # a retry
    assert {a["channel"] for a in shop.answers if a["feature_hash"] == SHORT_LIST.hash} == {"app", "other"}

    before = shop.check()
    assert (before.verdict, before.mismatches) == ("ok", 0)
    # The first version logs no column of the others, and the third one logs `web` as `other`. So histories of layouts
    # with these columns have unexplained events until the payments are in the lake.
    assert before.skipped == {"the online store has events that have not landed": before.records - before.compared}
    assert before.compared > 20

    shop.ingest(rows)
    assert sum(one.appended for one in shop.load().histories) == 0
    result = shop.check()
    assert (result.verdict, result.records, result.compared, result.mismatches) == ("ok", 61, 61, 0)
    equal = {name: counts["equal"] for name, counts in result.features.items()}
    assert {equal[name] for name in Plan(THREE).features} == {20}
    assert {equal[name] for name in Plan(TWO_ENTITIES).features} == {41}
    assert {equal[name] for name in ("channel", "distance", "in_person", "terminal_id", "country")} == {41}
    assert (equal["amount"], equal["merchant_category"]) == (61, 0)  # the lake has no merchant_category
    assert result.snapshots == {"current": 41}
    assert (result.probabilities["checked"], result.probabilities["wrong"], result.events_lost) == (61, 0, 0)


@pytest.mark.usefixtures("past")
def test_each_fault_is_counted_under_its_feature(shop: Shop) -> None:
    snapshot, version = publish_snapshot(shop, str(TODAY)), shop.versions[1]
    rows = payments(shop, 9, MIDNIGHT + 3 * US_PER_HOUR)
    rows[0].update(terminal_id="a"), rows[1].update(merchant_id="m1"), rows[2].update(in_person=True)
    faults: list[dict[str, object]] = [
        {"terminal_cards_1d": None}, {"shop_fraud_rate_7d": 0.9}, {"in_person": False}, {"card_count_1h": 99.0},
        {"country": "es"},
    ]  # fmt: skip
    for i, row in enumerate(rows):
        shop.serve(row, version, {"shop": snapshot}, **(faults[i] if i < len(faults) else {}))
    shop.ingest(rows)
    result = shop.check()
    assert (result.verdict, result.compared, result.mismatches) == ("skew", 9, 5)
    wrong = {
        name: [counts[kind] for kind in ("mismatch", "missing", "extra")]
        for name, counts in result.features.items() if counts["equal"] < 9 and name in Plan(TWO_ENTITIES).features
    }  # fmt: skip
    assert wrong == {"terminal_cards_1d": [0, 1, 0], "shop_fraud_rate_7d": [1, 0, 0], "card_count_1h": [1, 0, 0]}
    assert [result.features[name]["mismatch"] for name in ("in_person", "country")] == [1, 1]
    assert result.probabilities["wrong"] >= 2


@pytest.mark.usefixtures("past")
def test_a_snapshot_that_was_built_again_or_removed_makes_its_answers_uncheckable_not_wrong(shop: Shop) -> None:
    days = [str(np.datetime64(str(TODAY)) - back) for back in (2, 1, 0)]
    removed, replaced, current = (publish_snapshot(shop, day) for day in days)
    version, rows = shop.versions[1], payments(shop, 6, MIDNIGHT + 3 * US_PER_HOUR)
    for row, snapshot in zip(rows, (removed, replaced, current, replaced, current, None), strict=True):
        shop.serve({**row, "merchant_id": "m1"}, version, {"shop": snapshot} if snapshot else None)
    publish_snapshot(shop, days[1], count=5.0)
    catalog.daily(SHOPS).at(shop.context.settings.lake_uri).drop(days[0])
    result = shop.check()
    assert (result.verdict, result.mismatches, result.compared) == ("ok", 0, 3)
    assert result.skipped == {GONE: 1, REPLACED: 2}
    assert result.snapshots == {"current": 2, "missing": 1, "stale": 3}
    # The window features of these answers are compared all the same.
    assert result.features["card_count_7d"]["equal"] == 6
    assert result.features["shop_count_7d"]["equal"] == 3


@pytest.mark.usefixtures("past")
def test_a_store_that_lost_one_entity_s_history_is_told_apart_from_the_other(shop: Shop, client: redis.Redis) -> None:
    version, snapshot = shop.versions[1], publish_snapshot(shop, str(TODAY))
    rows = [{**row, "terminal_id": "a"} for row in payments(shop, 5, MIDNIGHT + 3 * US_PER_HOUR)]
    for row in rows:
        shop.serve(row, version, {"shop": snapshot})
    terminals = version.plan.windows[1].layout
    client.delete(terminals.history_key("a"), terminals.ids_key("a"))
    shop.ingest(rows)
    result = shop.check()
    assert (result.compared, result.skipped) == (0, {"the online store no longer has the history": 5})
    assert result.features["card_count_7d"]["equal"] == 5
    assert result.features["terminal_cards_1d"]["equal"] == 0
    assert result.events_lost > 0  # of days that were loaded with their present content
    assert result.verdict == "skew"


def test_an_answer_of_a_version_without_a_declaration_is_counted_by_that_reason(
    shop: Shop, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    for row in payments(shop, 3, MIDNIGHT):
        shop.serve(row, shop.versions[1])
    shop.answers[1].update(feature_hash="0" * 64)
    shop.answers[2].update(model_version="99")
    result = shop.check()
    assert (result.compared, result.probabilities["unchecked"]) == (1, 2)
    assert result.skipped == {
        "the registry has another version of that number": 1, "fraud-detector has no version 99": 1,
    }  # fmt: skip


@pytest.mark.usefixtures("past")
def test_answers_of_all_versions_are_replayed_to_the_bit_from_the_lake_and_from_serving_s_segments(
    shop: Shop, context: Context
) -> None:
    snapshot = publish_snapshot(shop, str(TODAY))
    rows = payments(shop, 30, MIDNIGHT + 3 * US_PER_HOUR)
    serve_all(shop, rows, snapshot)
    shop.ingest(rows)
    folder = context.settings.prediction_log
    folder.mkdir(parents=True)
    declared = {version.plan.hash: version.plan.declaration for version in shop.versions}
    lines = [line(answer, declared[answer["feature_hash"]]) for answer in shop.answers]
    (folder / "segment-1-a.jsonl").write_bytes(b"".join(lines))
    found = replay.run(replay.Config(newest=100), shop.context)
    assert (found.equal, found.different) == ({"served": 30}, {})
    assert (found.recomputed, found.as_recorded) == ({"served": 30}, {})
    names = [set(answer.recorded) for answer in found.answers if answer.model_version == shop.versions[0].number]
    assert names[0] == {*Plan(THREE).features, "fraud_probability", "is_fraud"}

    (folder / "segment-1-a.jsonl").unlink()
    shop.answers[4]["shop_mean_30d"], shop.answers[5]["fraud_probability"] = 1e9, 0.75
    shop.ship()
    with pytest.raises(RefusedError, match="2 of 30 answers differ") as refused:
        replay.run(replay.Config(newest=100), shop.context)
    assert "shop_mean_30d" in refused.value.got
    assert refused.value.got.count("differs") == 2
    publish_snapshot(shop, str(TODAY), count=7.0)
    shop.answers[4]["shop_mean_30d"], shop.answers[5]["fraud_probability"] = 8.5, 0.0
    [one] = replay.run(replay.Config(ids=(shop.answers[1]["prediction_id"],)), shop.context).answers
    assert (one.features, one.different) == (REPLACED, ())
