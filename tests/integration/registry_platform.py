"""A registry with versions that need not parse: what tests of promotion work on."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import mlflow

from fraud.cli import run_job
from fraud.core.declaration import Declaration, parse
from fraud.embedded.servers import mlflow_server
from fraud.errors import FraudError
from fraud.registry.model_versions import MODEL_NAME
from fraud.registry.promotion_log import STAGING, opened
from fraud.settings import Settings

PROJECT = Path(__file__).resolve().parents[2]
STATELESS = parse({"features": [{"name": "amount", "kind": "request", "op": "column", "column": "amount"}]})
"""A declaration that needs nothing from the online store."""


class Platform:
    """A registry of its own per test: the model name is fixed, so versions are deleted afterwards."""

    def __init__(self, server: mlflow_server.Server, home: Path) -> None:
        self.home = home
        self.settings = Settings(home=home, project=PROJECT, mlflow_url=server.url, actor="ada")
        self.client = mlflow.MlflowClient(server.url)

    def register(
        self,
        gates: str = "passed",
        champion: str = "",
        failed: str = "",
        staging: bool = True,
        declaration: Declaration = STATELESS,
    ) -> str:
        """A version with its two files; the model's bytes need not parse here."""
        experiment = self.client.get_experiment_by_name("e")
        experiment_id = experiment.experiment_id if experiment else self.client.create_experiment("e")
        run = self.client.create_run(experiment_id)
        model = f"model of {run.info.run_id}".encode()
        facts = {"feature_hash": declaration.hash, "declaration": json.loads(declaration.canonical()), "threshold": 0.5}
        serving = json.dumps(facts).encode()
        folder = self.home / run.info.run_id
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(model)
        (folder / "serving.json").write_bytes(serving)
        self.client.log_artifacts(run.info.run_id, str(folder), "model")
        tags = {
            "model_sha256": sha256(model).hexdigest(), "serving_sha256": sha256(serving).hexdigest(),
            "gates": gates, "failed_gates": failed, "champion": champion, "feature_hash": declaration.hash,
        }  # fmt: skip
        source = f"runs:/{run.info.run_id}/model"
        version = self.client.create_model_version(MODEL_NAME, source, run.info.run_id, tags=tags)
        if staging:
            self.client.set_registered_model_alias(MODEL_NAME, STAGING, version.version)
        return str(version.version)

    def fraud(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Exit code and printed object of `fraud`, without the seconds that a process of its own takes to start."""
        try:
            return 0, run_job(arguments[0], list(arguments[1:])).model_dump(mode="json")
        except FraudError as error:
            failure = {"error": type(error).__name__, "message": error.message, "expected": error.expected}
            return error.exit_code, failure | {"got": error.got}

    def alias(self, name: str) -> str | None:
        with opened(self.settings) as promotion:
            found = promotion.version(name)
            return str(found.version) if found else None

    def stages(self) -> dict[str, str]:
        versions = self.client.search_model_versions(f"name='{MODEL_NAME}'")
        return {str(v.version): v.current_stage for v in versions}


def environment(server: mlflow_server.Server, home: Path) -> dict[str, str]:
    """For `fraud` against this registry."""
    here = {"FRAUD_HOME": str(home), "FRAUD_PROJECT": str(PROJECT), "FRAUD_MLFLOW_URL": server.url}
    return {**server.client_environment(), **here, "FRAUD_ACTOR": "ada"}
