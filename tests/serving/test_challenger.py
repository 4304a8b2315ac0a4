"""A challenger is scored in shadow: it is in the log and the metrics, and changes no answer."""

from collections.abc import Callable

import pytest
from expected import probability
from servers import Registry, Serving, Valkey, until

PAYMENT = {
    "amount": 100.0, "merchant_category": "travel", "hour_of_day": 3, "day_of_week": 2, "distance_from_home": 3.0,
}  # fmt: skip


def test_every_answer_is_the_champions_and_every_record_has_both(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    registry.promote(versions[4], "staging")
    serving = start(shared_store.url, registry, SERVING_CHALLENGER_ALIAS="staging")
    info = f'serving_challenger_info{{level="tiny",sha256="{registry.sha256(4)}",version="{versions[4]}"}}'
    until(lambda: info in serving.client.get("/metrics").text, "the challenger")
    answers = [serving.predict(**PAYMENT) for _ in range(20)]
    champion, challenger = (probability(n, 100.0, distance_known=True) for n in (0, 4))
    assert {a["model_version"] for a in answers} == {versions[0]}
    assert answers[0]["fraud_probability"] == pytest.approx(champion, abs=1e-6)
    serving.predict(**PAYMENT, transaction_velocity=40.0)  # fraud to both
    until(lambda: serving.metric("serving_log_records_total") == 21, "the log")
    outcomes = {
        name: serving.metric(f'serving_challenger_total{{outcome="{name}"}}')
        for name in ("agree", "champion_only", "challenger_only")
    }
    # sigmoid(-1) is no fraud at a threshold of 0.5, sigmoid(1) is
    assert outcomes == {"agree": 1, "champion_only": 0, "challenger_only": 20}
    assert serving.metric("serving_challenger_difference_count") == 21
    serving.stop()
    for record in serving.records()[:20]:
        assert (record["model_version"], record["challenger_version"]) == (versions[0], versions[4])
        assert record["challenger_probability"] == pytest.approx(challenger, abs=1e-6)


def test_a_bad_challenger_is_refused_and_answers_do_not_change(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    model, facts = registry.files(1)
    registry.promote(registry.register(model[:-1], facts, model_sha256=registry.sha256(1)), "staging")
    serving = start(shared_store.url, registry, SERVING_CHALLENGER_ALIAS="staging")
    until(lambda: serving.metric('serving_artefacts_refused_total{reason="sha256"}') > 0, "the refusal")
    assert serving.predict(**PAYMENT)["model_version"] == versions[0]
    serving.stop()
    assert "challenger_version" not in serving.records()[0]
