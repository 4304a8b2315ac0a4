"""The files of an export for ONNX Runtime on a device: the version, its inputs by name and an example in Python."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Final

from fraud.export.web_folder import version_facts
from fraud.registry.model_versions import ModelArtifact

EXAMPLE: Final = "score.py"


def write_onnx(folder: Path, artifact: ModelArtifact) -> None:
    """Write all files but the manifest."""
    facts = {
        **version_facts(artifact), "threshold": artifact.threshold, "inputs": list(artifact.plan.vector.names),
        "declaration": json.loads(artifact.plan.declaration.canonical()),
        "golden": json.loads(artifact.serving)["golden"],
    }  # fmt: skip
    written = {
        "model.onnx": artifact.model, "version.json": (json.dumps(facts, indent=1) + "\n").encode(),
        EXAMPLE: files("fraud.export").joinpath("device_example.py").read_bytes(),
    }  # fmt: skip
    for name, data in written.items():
        (folder / name).write_bytes(data)
