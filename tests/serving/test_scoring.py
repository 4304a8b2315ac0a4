"""Single requests of one event-loop iteration share an inference call, and get the same bits as alone."""

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expected import probability
from plans import model
from servers import Registry

from fraud_serving.log.prediction_log import PredictionLog
from fraud_serving.metrics import Metrics
from fraud_serving.model.model import MICRO_BATCH_ROWS, Model
from fraud_serving.scoring.challenger import Challenger
from fraud_serving.scoring.inference import InferenceError
from fraud_serving.scoring.scorer import Scorer
from fraud_serving.scoring.state import State
from fraud_serving.store.address import StoreAddress
from fraud_serving.store.store import ServerStore


def monitored(served: Model) -> list[int]:
    """Rows of every inference call from now on."""
    calls, score = [], served.score

    def counted(vectors: np.ndarray) -> np.ndarray:
        calls.append(len(vectors))
        return score(vectors)

    served.score = counted  # type: ignore[method-assign]
    return calls


@pytest.fixture
def scorer(registry: Registry, tmp_path: Path) -> Scorer:
    """Without a store: payments of unknown users only."""
    metrics = Metrics()
    log = PredictionLog(tmp_path, 10_000, 1_000_000, metrics, Challenger(metrics).score)
    scorer = Scorer(ServerStore(StoreAddress.of("redis://127.0.0.1:1"), 0.05, 60, metrics), log, metrics)
    scorer.state = State(model(registry, 0))
    return scorer


def decide(scorer: Scorer, amount: float) -> Coroutine[Any, Any, bytes]:
    """The decision on one payment by the versions that are in service now."""
    body = {
        "amount": amount, "merchant_category": "travel", "hour_of_day": 3, "day_of_week": 2, "distance_from_home": 3.0,
    }  # fmt: skip
    state = scorer.state
    return scorer.decide(state, state.requests.parse(json.dumps(body).encode()), 0)


def served(scorer: Scorer) -> Model:
    assert scorer.state.production is not None
    return scorer.state.production


async def decided(scorer: Scorer, amounts: list[float]) -> list[dict[str, object]]:
    answers = await asyncio.gather(*(decide(scorer, amount) for amount in amounts))
    return [json.loads(answer) for answer in answers]


def test_a_micro_batch_is_one_inference_call_and_every_answer_has_the_bits_it_has_alone(scorer: Scorer) -> None:
    amounts = [1.0 + 7 * n for n in range(MICRO_BATCH_ROWS + 6)]
    calls = monitored(served(scorer))
    together = asyncio.run(decided(scorer, amounts))
    assert calls == [MICRO_BATCH_ROWS, 6]
    alone = [asyncio.run(decided(scorer, [amount]))[0] for amount in amounts]
    assert calls[2:] == [1] * len(amounts)
    assert [a["fraud_probability"] for a in together] == [a["fraud_probability"] for a in alone]
    assert len({a["fraud_probability"] for a in together}) == len(amounts)


def test_a_version_swapped_in_during_an_iteration_scores_the_requests_after_it(
    scorer: Scorer, registry: Registry
) -> None:
    async def run() -> list[bytes]:
        before = [asyncio.ensure_future(decide(scorer, 100.0)) for _ in range(3)]
        await asyncio.sleep(0)  # they are in a micro-batch that has not run yet
        scorer.state = State(model(registry, 4))
        after = [asyncio.ensure_future(decide(scorer, 100.0)) for _ in range(3)]
        return await asyncio.gather(*before, *after)

    answers = [json.loads(answer) for answer in asyncio.run(run())]
    assert [a["model_version"] for a in answers] == ["v0"] * 3 + ["v4"] * 3
    for answer, number in zip(answers, (0, 0, 0, 4, 4, 4), strict=True):
        assert answer["fraud_probability"] == pytest.approx(probability(number, 100.0, distance_known=True), abs=1e-6)


def test_every_request_is_scored_alone_if_batching_changes_bits(
    scorer: Scorer, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Model.score

    def one_bit_off_in_a_batch(self: Model, vectors: np.ndarray) -> np.ndarray:
        answers = score(self, vectors)
        return np.nextafter(answers, np.float32(0)) if len(vectors) > 1 else answers

    monkeypatch.setattr(Model, "score", one_bit_off_in_a_batch)
    scorer.state = State(model(registry, 0))
    calls = monitored(served(scorer))
    answers = asyncio.run(decided(scorer, [5.0, 50.0, 500.0]))
    assert calls == [1, 1, 1]
    assert len({a["fraud_probability"] for a in answers}) == 3


def test_a_failed_inference_fails_its_micro_batch_and_not_the_next(scorer: Scorer) -> None:
    score, logged = served(scorer).score, []

    def broken(_vectors: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of memory")

    async def run() -> tuple[list[object], bytes]:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: logged.append(context["exception"]))
        served(scorer).score = broken  # type: ignore[method-assign]
        failed = await asyncio.gather(*(decide(scorer, 5.0) for _ in range(4)), return_exceptions=True)
        served(scorer).score = score  # type: ignore[method-assign]
        return failed, await decide(scorer, 5.0)

    failed, good = asyncio.run(run())
    assert [type(error) for error in failed] == [InferenceError] * 4
    assert [str(error) for error in logged] == ["out of memory"]  # once, with its traceback, not once a request
    assert 0 < json.loads(good)["fraud_probability"] < 1
