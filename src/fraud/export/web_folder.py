"""The files of an export for the web: the scorer, the page, the version and the rows of its self-test."""

import json
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np

from fraud.core.daily import Table
from fraud.core.plan import Plan
from fraud.export.edge_build import built_files
from fraud.export.golden_rows import FORMAT, golden_json
from fraud.export.payments import Daily, rows
from fraud.features.daily_values import snapshot_rows
from fraud.lake import catalog
from fraud.registry.model_versions import ModelArtifact
from fraud.scoring.browser_runtime import browser_parity
from fraud.settings import Settings

_TOLERANCE: Final = 1e-5
"""For a model whose probabilities have other bits in the browser, as in serving's own self-test."""
_README: Final = """# fraud-detector, version {version}

Scores payments in a browser, with the model, the features and the threshold of version {version}.

    python3 -m http.server 8000    # in this folder, then open http://127.0.0.1:8000/

`index.html` is a page for trying out payments. In a program of your own:

    import {{ load }} from "./fraud-scorer.js";
    const scorer = await load({{ manifestSha256: "SHA256_OF_MANIFEST_JSON" }});
    const answer = await scorer.score({{ amount: 49.9, hour_of_day: 3, day_of_week: 2 }});

Every file is compared with `manifest.json` before it is used, and the golden rows are scored before the first answer.
The sha256 of `manifest.json` identifies the export; `fraud history` prints it.
"""


def write_web(folder: Path, artifact: ModelArtifact, settings: Settings) -> None:
    """Write all files but the manifest. Raises RefusedError if the scorer cannot be built."""
    for path in built_files(settings.project):
        shutil.copyfile(path, folder / path.name)
    default = daily_default(artifact.plan, settings.lake_uri)
    facts = {**version_facts(artifact), "daily_default": default}
    written = {
        "model.onnx": artifact.model, "serving.json": artifact.serving, "version.json": _json(facts),
        "golden.json": _golden(artifact, settings.project, default), "package.json": _json(_package(artifact.version)),
        "README.md": _README.format(version=artifact.version).encode(),
    }  # fmt: skip
    for name, data in written.items():
        (folder / name).write_bytes(data)


def version_facts(artifact: ModelArtifact) -> dict[str, Any]:
    """The start of version.json: which version the folder has."""
    return {
        "format": FORMAT, "model_version": artifact.version, "model_sha256": artifact.model_sha256,
        "serving_sha256": artifact.serving_sha256, "feature_hash": artifact.feature_hash,
    }  # fmt: skip


def daily_default(plan: Plan, lake_uri: str) -> Daily:
    """Entity -> the values of an id without a row, in the newest snapshot of the lake; no entity without a snapshot."""
    found = {table.entity: _default(table, lake_uri) for table in plan.tables}
    return {entity: values for entity, values in found.items() if values is not None}


def _default(table: Table, lake_uri: str) -> dict[str, float | None] | None:
    dataset = catalog.daily(table).at(lake_uri).open()
    newest = max(dataset.partitions(), default=None)
    partition = dataset.partition(newest) if newest else None
    if partition is None:
        return None
    _, values = snapshot_rows(dataset, table, partition)
    last = values[:, -1].tolist()
    return {name: None if np.isnan(value) else value for name, value in zip(table.names, last, strict=True)}


def _golden(artifact: ModelArtifact, project: Path, default: Daily) -> bytes:
    vectors = np.array(json.loads(artifact.serving)["golden"]["vectors"], dtype=np.float32)
    exact = not browser_parity(project, artifact.model, vectors).differing
    payments = rows(artifact.plan)
    return golden_json(
        artifact.plan, artifact.model, artifact.threshold, payments, default, 0.0 if exact else _TOLERANCE
    )


def _package(version: str) -> dict[str, Any]:
    return {
        "name": "fraud-detector-web", "version": f"{version}.0.0", "private": True, "type": "module",
        "main": "fraud-scorer.js", "types": "fraud-scorer.d.ts",
        "exports": {".": {"types": "./fraud-scorer.d.ts", "default": "./fraud-scorer.js"}, "./*": "./*"},
        "sideEffects": False,
    }  # fmt: skip


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
