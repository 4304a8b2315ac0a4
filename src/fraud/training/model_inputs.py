"""Hashes of the inputs of a training. Equal inputs have the same fingerprint in any commit and any folder."""

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

import fraud
from fraud.core.declaration import Declaration
from fraud.errors import BadConfigError
from fraud.lake.records import Partition
from fraud.params import Params
from fraud.training.import_closure import closure

TRAINING_PARAMS: Final = ("split", "training", "costs", "drift")
"""Sections of params.yaml that decide a version's bytes; `gates` decide the verdict on it."""
WITHOUT_CONTENT: Final = {
    "fraud.errors": "texts and exit codes of errors",
    "fraud.job": "types of a job's config, result and context",
    "fraud.settings": "addresses and folders; what is read there has a hash of its own",
}
"""Module -> why a change of it cannot change what a job computes."""
LEFT_OUT: Final = WITHOUT_CONTENT | {
    "fraud.lake.git": "the commit, recorded as a tag",
    "fraud.lake.reports": "pages for people",
    "fraud.training.dvc.data_versions": "copies to the DVC remote",
    "fraud.training.evaluate": "the gates, evaluated after the version is registered",
    "fraud.training.plots": "figures for people",
    "fraud.training.wandb_mirror": "copies to Weights & Biases",
}
"""Module -> why `code_sha256` does not cover it, though the training job imports it. Everything else is covered."""


def inputs(partition: Partition, params: Params, project: Path, declaration: Declaration) -> dict[str, str]:
    """Name -> hash of everything that decides a version's bytes. The names are those of the version's tags.

    Raises BadConfigError when the project has no lock files.
    """
    locks = sorted((project / "requirements").glob("*.txt"))
    if not locks:
        raise BadConfigError(
            "the lock files are missing", expected=f"at least one file {project / 'requirements'}/*.txt",
            hint="run from the project's folder or set FRAUD_PROJECT",
        )  # fmt: skip
    return {
        "data_sha256": partition.content_sha256,
        "params_sha256": params.fingerprint(*TRAINING_PARAMS),
        "lock_sha256": _digest(project, locks),
        "feature_hash": declaration.hash,
        "code_sha256": code_sha256(Path(next(iter(fraud.__path__)))),
        "seed": str(params.training.seed),
    }


def code_sha256(package: Path) -> str:
    """One hash over the code that decides a version's bytes: the import closure of the training job without LEFT_OUT.

    `package` is the folder of `fraud`. Raises ValueError when the closure cannot be computed.
    """
    return _digest(package, closure(package, ["fraud.training.train"], LEFT_OUT))


def fingerprint(made_from: Mapping[str, str]) -> str:
    """One hash over `inputs`."""
    return sha256(json.dumps(dict(made_from), sort_keys=True).encode()).hexdigest()


def _digest(root: Path, paths: Iterable[Path]) -> str:
    named = {str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest() for path in paths}
    return sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
