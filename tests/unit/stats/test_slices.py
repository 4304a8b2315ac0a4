"""The subsets of a declaration's transactions, by hand."""

import numpy as np

from fraud.core.declaration import parse
from fraud.core.plan import Plan
from fraud.stats.slices import slices

NAN = float("nan")
PLAN = Plan(
    parse(
        {
            "columns": {
                "kind": {"type": "category", "values": ["food", "other"]}, "present": {"type": "flag"},
                "device_id": {"type": "id"},
            },
            "entities": {"user": {"id": "user_id"}, "device": {"id": "device_id"}},
            "features": [
                {"name": "kind", "kind": "request", "op": "column", "column": "kind"},
                {"name": "present", "kind": "request", "op": "column", "column": "present"},
                {"name": "n_1h", "kind": "window", "entity": "user", "aggregate": "count", "window": "1h"},
                {"name": "most_1d", "kind": "window", "entity": "user", "aggregate": "max", "column": "amount",
                 "window": "1d"},
                {"name": "since", "kind": "window", "entity": "user", "aggregate": "seconds_since_last",
                 "window": "30d"},
                {"name": "users_7d", "kind": "window", "entity": "device", "aggregate": "distinct",
                 "column": "user_id", "window": "7d"},
            ],
        }
    )
)  # fmt: skip


def test_slices_are_categories_flags_amounts_and_entities_without_history() -> None:
    base = {
        "hour_of_day": [1, 2, 3, 4], "day_of_week": [0, 0, 0, 0], "kind": [0, 1, 1, 0], "present": [1, 0, NAN, 1],
        "n_1h": [0, 1, 0, 2], "most_1d": [NAN, 5, NAN, 9], "since": [NAN, 60, 7000, 9], "users_7d": [0, 2, 1, 0],
    }  # fmt: skip
    values = [np.array(base[given.name], dtype=np.float64) for given in PLAN.vector.inputs]
    found = slices(PLAN, values, np.array([50.0, 50.01, 1000.0, 2000.0]))
    assert {name: mask.astype(int).tolist() for name, mask in found.items()} == {
        "kind food": [1, 0, 0, 1], "kind other": [0, 1, 1, 0],
        "present true": [1, 0, 0, 1], "present false": [0, 1, 0, 0], "present missing": [0, 0, 1, 0],
        "amount 0 to 50 USD": [1, 0, 0, 0], "amount 50 to 200 USD": [0, 1, 0, 0],
        "amount 200 to 1000 USD": [0, 0, 1, 0], "amount above 1000 USD": [0, 0, 0, 1],
        "device without transactions in 7d": [1, 0, 0, 1], "user without transactions in 30d": [1, 0, 0, 0],
    }  # fmt: skip
