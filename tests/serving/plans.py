"""The compiled declarations of the test models, and the daily tables of a store."""

import json
from hashlib import sha256

import redis
from servers import Registry, Valkey, feature_hash

from fraud.core.daily import Snapshot, Table
from fraud.core.declaration import parse
from fraud.core.plan import Plan
from fraud_serving.model.model import Artefact, Model, Registered, load


def plan(registry: Registry, number: int) -> Plan:
    """The declaration of a test model, as its serving.json has it."""
    return Plan(parse(json.loads(registry.files(number)[1])["declaration"], learnt=True))


def model(registry: Registry, number: int) -> Model:
    """A test model, loaded in this process."""
    data, facts = registry.files(number)
    tags = {
        "model_sha256": sha256(data).hexdigest(), "serving_sha256": sha256(facts).hexdigest(),
        "feature_hash": feature_hash(facts),
    }  # fmt: skip
    return load(Registered(f"v{number}", "run", "source", tags), Artefact(data, facts))


def client(store: Valkey) -> redis.Redis:
    return redis.Redis.from_url(store.url)


def publish(
    store: Valkey, table: Table, day: int, rows: dict[str, list[float]], default: list[float], content: str = "a"
) -> str:
    """Publish the snapshot of a day (days since 1970), the pointer last. Returns its id."""
    snapshot = Snapshot(day, f"day{day}-{content * 12}", list(default))
    with client(store) as connection:
        for entity_id, values in rows.items():
            connection.set(table.row_key(snapshot.id, entity_id), table.pack(values))
        connection.hset(table.pointer_key, str(day), snapshot.to_json())
    return snapshot.id
