"""Window values of Arrow tables over random declarations: the one-machine engine, the groups of Spark, the oracle."""

import os
from typing import Any, Final

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle_windows import Event, Feature, window_values

from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.core.declaration import Declaration, parse
from fraud.core.declaration_types import AGGREGATES, WindowFeature
from fraud.features.engines import arrow_windows, spark_windows

START: Final = 1_750_000_000_000_000
COLUMNS: Final[dict[str, dict[str, Any]]] = {
    "balance": {"type": "number", "unit": "USD", "min": -1e9, "max": 1e9, "decimals": 2},
    "channel": {"type": "category", "values": ["app", "web", "other"], "unknown": "other"},
    "country": {"type": "category", "learn": 2, "unknown": "other"},
    "device_id": {"type": "id"},
    "present": {"type": "flag"},
}
TYPES: Final = {**{name: column["type"] for name, column in COLUMNS.items()}, "amount": "number", "merchant_id": "id",
                "user_id": "id"}  # fmt: skip
DIVISORS: Final = {"amount": 10_000, "balance": 100}
WINDOWS: Final = {"30m": US_PER_HOUR // 2, "1h": US_PER_HOUR, "1d": US_PER_DAY, "7d": 7 * US_PER_DAY}
EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "50"))


@st.composite
def declarations(draw: st.DrawFn) -> Declaration:
    """Two entities, the second of which may be null, with one to six window features of each."""
    features: list[dict[str, Any]] = []
    for entity in ("user", "device"):
        for i in range(draw(st.integers(1, 6))):
            aggregate = draw(st.sampled_from(sorted(AGGREGATES)))
            feature = {"name": f"{entity}_{i}", "kind": "window", "entity": entity, "aggregate": aggregate,
                       "window": draw(st.sampled_from(sorted(WINDOWS)))}  # fmt: skip
            if types := AGGREGATES[aggregate]:
                feature["column"] = draw(st.sampled_from([name for name in sorted(TYPES) if TYPES[name] in types]))
            if aggregate == "share" and TYPES[feature["column"]] == "category":
                feature["value"] = draw(st.sampled_from(["app", "other"] if feature["column"] == "channel" else ["de"]))
            features.append(feature)
    entities = {
        "user": {"id": "user_id", "max_events": draw(st.sampled_from([8, 1_024]))},
        "device": {"id": "device_id", "max_events": 8, "keep": "8d"},
    }
    return parse({"columns": COLUMNS, "entities": entities, "features": features})


@st.composite
def logs(draw: st.DrawFn) -> pa.Table:
    """Rows of a few users and devices with ties, late rows, nulls and categories outside of the list."""
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([US_PER_HOUR, US_PER_DAY, 20 * US_PER_DAY]))
    at = START + rng.integers(0, 30, n) * (spread // 30)  # ties
    created = at + np.where(rng.random(n) < 0.3, rng.integers(0, 20 * US_PER_DAY, n), 0)

    def texts(choices: list[str | None]) -> pa.Array:
        return pa.array([choices[i] for i in rng.integers(0, len(choices), n)], pa.string())

    timestamp = pa.timestamp("us", "UTC")
    table = pa.table(
        {
            "transaction_id": [f"t{i:03}" for i in range(n)],
            "event_timestamp": pa.array(at, timestamp),
            "created_timestamp": pa.array(created, timestamp),
            "user_id": texts(["u1", "u2"]),
            "merchant_id": texts(["m1", "m2", "m3"]),
            "amount": rng.integers(1, 10**9, n) / 10_000,
            "balance": pa.array(rng.integers(-500, 500, n) / 100, mask=rng.random(n) < 0.3),
            "channel": texts(["app", "web", "other", "phone", None]),
            "country": texts(["de", "fr", "jp", "other", None]),
            "device_id": texts(["d1", "d2", None]),
            "present": pa.array([(True, False, None)[i] for i in rng.integers(0, 3, n)], pa.bool_()),
        }
    )  # fmt: skip
    return table.sort_by([(f"{name}_timestamp", "ascending") for name in ("event", "created")])


def declared_value(column: str, value: Any) -> Any:  # noqa: ANN401 - a cell of any type
    """The value by hand: numbers in units; null and a text outside of a closed list are `other`."""
    if TYPES[column] == "number":
        return None if value is None else round(value * DIVISORS[column])
    if TYPES[column] == "category":
        return "other" if value is None or (column == "channel" and value == "phone") else value
    return value


def expected(table: pa.Table, declaration: Declaration) -> dict[str, list[float | None]]:
    """The oracle's values per feature. A row without an id is alone."""
    records = table.to_pylist()
    at, created = (np.asarray(table[f"{name}_timestamp"].cast(pa.int64())) for name in ("event", "created"))
    found: dict[str, list[float | None]] = {}
    for name, entity in declaration.entities.items():
        features = declaration.windows(name)
        columns = sorted(TYPES)
        asked = [_feature(feature, columns) for feature in features]
        assert entity.max_events is not None
        assert entity.keep is not None
        groups: dict[Any, list[int]] = {}
        for i, record in enumerate(records):
            groups.setdefault(record[entity.id] or i, []).append(i)
        values: dict[int, list[float | None]] = {}
        for rows in groups.values():
            events = [
                Event(int(at[i]), int(created[i]), tuple(declared_value(c, records[i][c]) for c in columns))
                for i in rows
            ]
            of_group = window_values(events, asked, entity.max_events, entity.keep)
            values |= {rows[k]: row for k, row in of_group.items()}
        for f, feature in enumerate(features):
            found[feature.name] = [values[i][f] for i in range(len(records))]
    return found


def _feature(feature: WindowFeature, columns: list[str]) -> Feature:
    column = -1 if feature.column is None else columns.index(feature.column)
    divisor = DIVISORS.get(feature.column or "", 1)
    return Feature(feature.aggregate, column, feature.window_us, divisor, feature.value or True)


def as_lists(values: arrow_windows.Values) -> dict[str, list[float | None]]:
    return {name: [None if np.isnan(v) else float(v) for v in column] for name, column in values.items()}


def in_groups(table: pa.Table, declaration: Declaration, shards: int, cut: int) -> dict[str, list[float | None]]:
    """The values as Spark computes them: two parts, one group per entity and shard, in any order."""
    entities = arrow_windows.entities(declaration)
    groups: dict[int, list[pa.RecordBatch]] = {}
    for start, part in ((0, table.slice(0, cut)), (cut, table.slice(cut))):
        positions = np.arange(start, start + part.num_rows)
        for batch in spark_windows.events(part, entities, positions, shards, to_build=True):
            for row in pa.Table.from_batches([batch]).to_pylist():
                groups.setdefault(row["group"], []).append(row["events"])
    found = {name: [None] * table.num_rows for entity in entities for name in entity.names}
    for number, packed in groups.items():
        entity = entities[number // shards]
        rows = spark_windows.unpacked(pa.chunked_array([pa.array(packed[::-1], pa.binary())]))
        values = spark_windows.values_of_group(rows, entity)
        for i, position in enumerate(values["position"].to_pylist()):
            for name in entity.names:
                value = values[name][i].as_py()
                found[name][position] = None if np.isnan(value) else value
    return found


@settings(max_examples=EXAMPLES, deadline=None)
@given(declarations(), logs(), st.integers(1, 3), st.data())
def test_random_declarations_have_the_same_bits_on_one_machine_and_in_groups(
    declaration: Declaration, table: pa.Table, shards: int, data: st.DataObject
) -> None:
    values = expected(table, declaration)
    assert as_lists(arrow_windows.window_values(table, declaration)) == values
    cut = data.draw(st.integers(0, table.num_rows))
    assert in_groups(table, declaration, shards, cut) == values
    mask = np.random.default_rng(table.num_rows).random(table.num_rows) < 0.5
    some = as_lists(arrow_windows.window_values(table, declaration, mask))
    assert some == {name: [v for v, keep in zip(column, mask, strict=True) if keep] for name, column in values.items()}
    encoded = [table[c].dictionary_encode() if table[c].type == pa.string() else table[c] for c in table.column_names]
    again = arrow_windows.window_values(pa.table(encoded, table.column_names), declaration, threads=2)
    assert as_lists(again) == values


def test_a_table_without_rows_has_values_without_rows() -> None:
    declaration = parse(
        {"entities": {"user": {"id": "user_id"}},
         "features": [{"name": "n", "kind": "window", "entity": "user", "aggregate": "count", "window": "1h"}]}
    )  # fmt: skip
    timestamp = pa.timestamp("us", "UTC")
    types = {"event_timestamp": timestamp, "created_timestamp": timestamp, "user_id": pa.string()}
    empty = pa.table({name: pa.array([], type_) for name, type_ in types.items()})
    assert as_lists(arrow_windows.window_values(empty, declaration)) == {"n": []}
    with_features = arrow_windows.with_features(empty, declaration, arrow_windows.window_values(empty, declaration))
    assert with_features.schema.field("n").type == pa.float64()
