"""Feast: registry of the feature views, point-in-time retrieval, and materialization of the views.

Importing this module takes seconds, so jobs import it only when they use it.
"""

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import datetime
from pathlib import Path
from types import ModuleType
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import yaml
from pydantic import ValidationError

from fraud.core.declaration import Declaration
from fraud.errors import BadConfigError
from fraud.features.feast_import import FeatureStore, RepoConfig
from fraud.features.feast_snapshot import View, views
from fraud.streams.redis_client import cluster_address

SERVICE = "fraud_detector_v1"
OURS = {"declaration": "feature_repo/features.yaml"}
"""Tag of generated views."""


def redis_address(redis_url: str) -> dict[str, str]:
    """Convert FRAUD_REDIS_URL to Feast's settings: `host:port,password=...,db=0`, of a cluster with several nodes.

    Without an online store (`none`), the address is one that nothing listens on; reading offline needs no connection.
    """
    if (cluster := cluster_address(redis_url)) is not None:
        parts = [f"{host}:{port}" for host, port in cluster.nodes]
        user, password, tls, ca = cluster.user, cluster.password, cluster.tls, cluster.ca
    else:
        url = urlsplit("redis://127.0.0.1:9/0" if redis_url == "none" else redis_url)
        parts = [f"{url.hostname}:{url.port or 6379}", f"db={url.path.strip('/') or 0}"]
        user, password = (text and unquote(text) for text in (url.username, url.password))
        tls = url.scheme == "rediss"
        ca = next(iter(parse_qs(url.query).get("ssl_ca_certs", ())), None)
    parts += [f"username={user}"] if user else []
    # Feast parses values as JSON. A password of digits must be quoted to remain a string.
    parts += [f'password="{password}"'] if password else []
    parts += ["ssl=true"] if tls else []
    parts += [f"ssl_ca_certs={ca}"] if ca else []
    return {"redis_type": "redis_cluster" if cluster else "redis", "connection_string": ",".join(parts)}


def load_definitions(project: Path) -> ModuleType:
    """Import `feature_repo/definitions.py`. Raises BadConfigError when it is missing or cannot be loaded."""
    path = project / "feature_repo" / "definitions.py"
    spec = importlib.util.spec_from_file_location("feature_definitions", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise BadConfigError(f"{path} does not exist", hint="set FRAUD_PROJECT to the checkout")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError, NameError, OSError, UnicodeDecodeError) as error:
        raise BadConfigError(f"{path} cannot be loaded", got=f"{type(error).__name__}: {error}") from error
    return module


def open_store(project: Path, registry_url: str, redis_url: str) -> FeatureStore:
    """A FeatureStore from `feature_repo/feature_store.yaml` with this registry (SQLAlchemy URL) and online store."""
    path = project / "feature_repo" / "feature_store.yaml"
    if not path.is_file():
        raise BadConfigError(f"{path} does not exist", hint="set FRAUD_PROJECT to the checkout")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        config["registry"]["path"] = registry_url
        config["online_store"] |= redis_address(redis_url)
    except (yaml.YAMLError, UnicodeDecodeError, OSError, KeyError, TypeError) as error:
        raise BadConfigError(
            f"{path} cannot be read", expected="YAML with the sections registry and online_store",
            got=f"{type(error).__name__}: {error}",
        ) from error  # fmt: skip
    try:
        return FeatureStore(config=RepoConfig(repo_path=str(path.parent), **config))
    except ValidationError as error:
        raise BadConfigError(f"{path} is not a valid Feast configuration", got=str(error.errors()[0])) from error


def apply(store: FeatureStore, project: Path, declaration: Declaration, folder: str) -> None:
    """Register entities, sources, views and service of a declaration, whose snapshot files are in a folder. Idempotent.

    Views that were generated before and that the declaration no longer has are removed, with their online rows.
    """
    objects = load_definitions(project).define(declaration, folder)
    names = {item.name for item in objects}
    with _quietly():
        gone = [v for v in store.list_feature_views(tags=OURS) if v.name not in names]
        old = [*gone, *(view.batch_source for view in gone if view.batch_source.name not in names)]
        store.apply(objects, objects_to_delete=old, partial=not old)


def materialize(store: FeatureStore, names: list[str], first: datetime, last: datetime) -> None:
    """Write each entity's latest row between two times to the online store, for views by name.

    With both bounds given, the rows do not depend on Feast's watermark or on rows with a time in the far future.
    """
    with _quietly():
        store.materialize(first, last, feature_views=names)


def point_in_time(store: FeatureStore, declaration: Declaration, events: pa.Table) -> pa.Table:
    """Feature values of `events` (event_timestamp, the entities' id columns and any others) as of each event's time.

    Returns the same rows, in any order, with the features of all views appended. A missing value is null: of an entity
    without a row, or of an event without an id.
    """
    if not views(declaration):
        return events
    with _quietly():
        job = store.get_historical_features(entity_df=events.to_pandas(), features=store.get_feature_service(SERVICE))
        return job.to_arrow()


def online(store: FeatureStore, view: View, ids: list[str]) -> dict[str, list[float | int | None]]:
    """Online values of a view: name -> one value per entity."""
    response = store.get_online_features(
        features=[f"{view.name}:{name}" for name in view.names], entity_rows=[{view.id_column: text} for text in ids]
    ).to_dict()
    return {name: response[name] for name in view.names}


@contextmanager
def _quietly() -> Iterator[None]:
    """Redirect Feast's output to standard error, since standard output is for the job's result, and hide a warning.

    Feast leaves a DuckDB connection in ibis' global options. It is closed here, since DuckDB prints a report of leaks
    when a connection is open at the end of the interpreter.
    """
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fetch_arrow_table", category=DeprecationWarning)
            yield
    finally:
        ibis = sys.modules.get("ibis")  # imported with the offline store
        if ibis and (backend := ibis.options.default_backend) is not None:
            backend.disconnect()
            ibis.options.default_backend = None
