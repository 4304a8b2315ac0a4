"""A registry with a small real model, days of features, and a Valkey server."""

import datetime as dt
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import mlflow
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog
from confluent_kafka import Producer
from onnx import TensorProto, helper
from tests.served_answers import THREE

from fraud.core.declaration import Declaration
from fraud.core.plan import Plan
from fraud.embedded.servers import kafka, valkey
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.lake.spark import spark_session
from fraud.params import Params
from fraud.registry import mlflow_client
from fraud.registry.model_versions import MODEL_NAME, PRODUCTION
from fraud.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
CATEGORIES = THREE.columns["merchant_category"].values  # type: ignore[union-attr]


def linear_model(
    amount: float = 0.01, velocity: float = 0.5, bias: float = -4.0, *, plan: Plan | None = None, **more: float
) -> bytes:
    """ONNX bytes of the logistic function of amount * x + velocity * y + bias; `more`: weights of other columns."""
    names = (plan or Plan(THREE)).vector.names
    weights = np.zeros((len(names), 1), np.float32)
    for name, weight in {"amount": amount, "transaction_velocity_1h": velocity, **more}.items():
        if name in names:
            weights[names.index(name), 0] = weight
    nodes = [
        helper.make_node("MatMul", ["features", "w"], ["z"]),
        helper.make_node("Add", ["z", "b"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["p"]),
        helper.make_node("Reshape", ["p", "flat"], ["fraud_probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(names)])],
        [helper.make_tensor_value_info("fraud_probability", TensorProto.FLOAT, [None])],
        [
            helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.ravel()),
            helper.make_tensor("b", TensorProto.FLOAT, [1], [bias]),
            helper.make_tensor("flat", TensorProto.INT64, [1], [-1]),
        ],
    )
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return made.SerializeToString()


def features_of(day: dt.date, rows: int, seed: int = 0, *, amounts: float = 1.0, missing: float = 0.15) -> pa.Table:
    """One day of the `features` dataset. `amounts` scales them, `missing` is the share without a distance."""
    rng = np.random.default_rng([seed, day.toordinal()])
    midnight = int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp()) * 1_000_000
    at = pa.array(midnight + np.sort(rng.integers(0, 86_400_000_000, rows)), pa.timestamp("us", tz="UTC"))
    distance = np.where(rng.random(rows) < missing, np.nan, rng.exponential(10, rows))
    average = np.where(rng.random(rows) < 0.02, np.nan, rng.lognormal(3.5, 0.4, rows))
    return pa.table(
        {
            "transaction_id": [f"{day}-{seed}-{i:07d}" for i in range(rows)],
            "event_timestamp": at,
            "created_timestamp": at,
            "user_id": [f"u{i}" for i in rng.integers(0, 100, rows)],
            "merchant_id": [f"m{i}" for i in rng.integers(0, 300, rows)],
            "merchant_category": np.array(CATEGORIES)[rng.integers(0, 6, rows)],
            "amount": np.rint(rng.lognormal(3.5, 1, rows) * amounts * 1e4 + 100) / 1e4,
            "distance_from_home": pa.array(distance, from_pandas=True),
            "transaction_velocity_1h": rng.poisson(0.3, rows).astype(np.float64),
            "avg_amount_7d": pa.array(average, from_pandas=True),
            "unique_merchants_30d": rng.integers(0, 40, rows),
        }
    )


@dataclass(frozen=True)
class Registry:
    """MLflow on SQLite: the same client code as against a server."""

    url: str
    folder: Path

    def register(
        self,
        model: bytes,
        threshold: float = 0.2,
        *,
        reference: pa.Table | None = None,
        tampered: bool = False,
        declaration: Declaration = THREE,
    ) -> str:
        """A version laid out as docs/architecture.md says, made production. Returns its number."""
        client = mlflow.MlflowClient(self.url)
        run_id = client.create_run(client.search_experiments()[0].experiment_id).info.run_id
        serving = json.dumps(
            {
                "model_sha256": sha256(model).hexdigest(), "model_bytes": len(model), "feature_hash": declaration.hash,
                "declaration": json.loads(declaration.canonical()), "threshold": threshold, "level": "logistic",
                "golden": {"vectors": [], "probabilities": []},
            }
        ).encode()  # fmt: skip
        folder = self.folder / run_id
        folder.mkdir()
        (folder / "model.onnx").write_bytes(model + b"\0" if tampered else model)
        (folder / "serving.json").write_bytes(serving)
        client.log_artifacts(run_id, str(folder), "model")
        if reference is not None:
            pq.write_table(reference, folder / "reference.parquet")
            client.log_artifact(run_id, str(folder / "reference.parquet"))
        tags = {
            "model_sha256": sha256(model).hexdigest(), "serving_sha256": sha256(serving).hexdigest(),
            "threshold": repr(threshold), "feature_hash": declaration.hash, "stored_hash": declaration.stored_hash,
        }  # fmt: skip
        made = client.create_model_version(MODEL_NAME, f"runs:/{run_id}/model", run_id, tags=tags)
        client.set_registered_model_alias(MODEL_NAME, PRODUCTION, made.version)
        return str(made.version)


def registry_in(folder: Path, database: bytes | None = None) -> Registry:
    """A registry without any version in a folder. `database`: a migrated one; migrations take ten seconds."""
    if database is not None:
        (folder / "mlflow.db").write_bytes(database)
    url = f"sqlite:///{folder / 'mlflow.db'}"
    client = mlflow.MlflowClient(url)
    client.create_experiment("batch", artifact_location=str(folder / "artifacts"))
    client.delete_experiment("0")
    client.create_registered_model(MODEL_NAME)
    return Registry(url, folder)


@pytest.fixture
def registry(tmp_path: Path, empty_registry: Path) -> Registry:
    """A registry of the test's own, without any version."""
    return registry_in(tmp_path, empty_registry.read_bytes())


@pytest.fixture
def registry_at() -> Callable[[str, Path], Registry]:
    """A registry on a server that runs, and the folder to make models in."""

    def make(url: str, folder: Path) -> Registry:
        folder.mkdir()
        mlflow.MlflowClient(url).create_registered_model(MODEL_NAME)
        return Registry(url, folder)

    return make


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database: the migrations take ten seconds, so once."""
    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def context(tmp_path: Path, registry: Registry, valkey_url: str) -> Context:
    """The context of a job, with all paths below the test's folder."""
    settings = Settings(
        home=tmp_path / "home", project=ROOT, mlflow_url=registry.url, spark_master="local[2]", redis_url=valkey_url
    )
    return Context(settings, Params.load(ROOT / "params.yaml"), THREE, structlog.get_logger())


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One JVM for all tests that do not kill it: a job uses the session that is up."""
    settings = Settings(home=tmp_path_factory.mktemp("spark"), project=ROOT, spark_master="local[2]")
    with spark_session(settings, "tests"):
        yield


@pytest.fixture
def features(context: Context) -> Dataset:
    return catalog.features(THREE.stored_hash).at(context.settings.lake_uri)


@pytest.fixture
def scores(context: Context) -> Dataset:
    return catalog.SCORES.at(context.settings.lake_uri)


@pytest.fixture
def register(registry: Registry) -> Callable[..., str]:
    return registry.register


@pytest.fixture(name="linear_model")
def _linear_model() -> Callable[..., bytes]:
    return linear_model


@pytest.fixture(name="features_of")
def _features_of() -> Callable[..., pa.Table]:
    return features_of


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a broker without topics."""
    with kafka.running(tmp_path_factory.mktemp("kafka")) as server:
        yield server.bootstrap


@pytest.fixture
def mock_broker() -> Iterator[str]:
    """Address of librdkafka's own broker, in this process: groups assign in seconds, topics are created by sending."""
    client = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = client.list_topics(timeout=30).brokers.values()
    yield f"{broker.host}:{broker.port}"
    del client


@pytest.fixture
def topic(kafka_broker: str, request: pytest.FixtureRequest) -> str:
    """A topic of this test with two partitions, and its rejected topic."""
    name = f"{request.node.name.partition('[')[0]}-{secrets.token_hex(4)}"
    kafka.create_topics(kafka_broker, {name: 2, f"{name}.rejected": 1})
    return name


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey server of our own for the whole session; tests share its keys, so they use their own users."""
    with valkey.running(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture(scope="session", autouse=True)
def mlflow_as_in_jobs() -> None:
    """Tests use MLflow's client directly too; without this its first request imports Feast and torch."""
    mlflow_client.client(Settings())
