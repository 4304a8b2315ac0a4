"""The rows of tests/contract_rows.json through POST /predict: the same verdicts as at every other entry point.

tests/integration/ingest/test_one_contract.py sends them through the other entry points.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from servers import Registry, Serving, Valkey, until

CASES: Final = json.loads((Path(__file__).parents[1] / "contract_rows.json").read_text())


@pytest.fixture(scope="module")
def serving(
    registry: Registry, versions: list[str], shared_store: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """A server of a version with the shipped declaration, which has columns of each type."""
    registry.promote(versions[7])
    server = Serving(tmp_path_factory.mktemp("contract"), shared_store.url, registry).start()
    yield server
    server.close()


@pytest.mark.parametrize("name", CASES["accepted"])
def test_a_valid_row_is_answered_and_logged_as_the_lake_stores_it(serving: Serving, name: str) -> None:
    case = CASES["accepted"][name]
    sent = CASES["good"] | {"transaction_id": f"one-contract {name}"} | case["changes"]
    answer = serving.predict(**sent)
    assert answer["transaction_id"] == sent["transaction_id"]

    def logged() -> dict[str, Any] | None:
        return next((r for r in serving.records() if r["prediction_id"] == answer["prediction_id"]), None)

    record = until(logged, "the record")
    record |= record["columns"]
    expected = sent | {"event_us": 1_741_600_800_000_000} | case["kept"]
    del expected["event_timestamp"]
    assert {field: record.get(field) for field in expected} == expected


@pytest.mark.parametrize("name", CASES["refused"])
def test_an_invalid_row_is_refused_naming_the_field(serving: Serving, name: str) -> None:
    changes = CASES["refused"][name]
    sent = CASES["good"] | {"transaction_id": f"one-contract {name}"} | changes
    answer = serving.client.post("/predict", json=sent)
    assert (answer.status_code, answer.json()["field"]) == (422, *changes)
