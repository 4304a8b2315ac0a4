"""The rows of an export's self-test are what the server computes for the same payments and histories."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from plans import plan, publish
from servers import Registry, Serving, Valkey, until

from fraud.core.plan import Plan
from fraud.export.golden_rows import golden_json
from fraud.export.payments import AT, rows

AT_US = round(AT.timestamp() * 1e6)


def of_its_own(row: dict[str, Any], number: int) -> dict[str, Any]:
    """The row with ids that no other row has."""
    text = json.dumps(row)
    for word in ("user ", "merchant ", "id ", "golden "):
        text = text.replace(f'"{word}', f'"{word}{number}-').replace(f"  {word}", f"  {word}{number}-")
    found: dict[str, Any] = json.loads(text)
    return found


def recorded(made: Plan, record: dict[str, Any]) -> dict[str, Any]:
    """The base values in a prediction record."""
    values: dict[str, Any] = {"hour_of_day": record["hour_of_day"], "day_of_week": record["day_of_week"]}
    columns = {**record["columns"], "amount": record["amount"]}
    for of, source in zip(made.vector.inputs[2:], made.sources, strict=True):
        value = record["features"][of.name] if source.column is None else columns[source.column]
        if of.categories:
            unknown = made.declaration.columns[source.column].unknown  # type: ignore[union-attr, index]
            value = of.categories.index(value if value in of.categories else unknown)
        values[of.name] = value
    return values


@pytest.mark.parametrize("number", [0, 5, 7], ids=["three features", "entities", "shipped"])
def test_the_server_computes_the_golden_rows_of_an_export(
    start: Callable[..., Serving], store: Valkey, registry: Registry, versions: list[str], number: int
) -> None:
    made, (model, serving_json) = plan(registry, number), registry.files(number)
    facts = json.loads(serving_json)
    golden = json.loads(golden_json(made, model, facts["threshold"], rows(made), {}, 0.0))
    given = [of_its_own(row, i) for i, row in enumerate(golden["rows"])]
    for table in made.tables:
        values = {
            row["transaction"][table.id_column]: [row["daily"][table.entity][name] for name in table.names]
            for row in given
            if row["daily"]
        }
        publish(store, table, table.day_of(AT_US), values, list(table.empty))
    registry.promote(versions[number])
    serving = start(store.url, registry)
    until(lambda: serving.version() == versions[number], "the version")
    for row in given:
        for payment in [*(row["history"] or []), row["transaction"]]:
            answer = serving.predict(**payment)
        row["answer"] = answer
    serving.stop()  # writes the prediction log
    records = {record["prediction_id"]: record for record in serving.records()}
    for row in given:
        assert recorded(made, records[row["answer"]["prediction_id"]]) == row["features"]
        assert row["answer"]["fraud_probability"] == pytest.approx(row["probability"], abs=1e-6)
        assert row["answer"]["is_fraud"] == row["is_fraud"]
    with_windows = [row for row in given if any(row["features"][name] for w in made.windows for name in w.names)]
    assert len(with_windows) > 10
