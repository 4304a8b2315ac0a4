"""What a model was made from, as hashes: equal inputs have one fingerprint, whatever commit or folder they lie in."""

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

import fraud
from fraud.core.features import definition_hash
from fraud.lake.dataset import Manifest
from fraud.params import Params

TRAINING_PARAMS: Final = ("split", "training", "costs", "drift")
"""Sections of params.yaml that decide a version's bytes; `gates` decide the verdict on it."""
_SOURCES: Final = (
    "core/**/*.py",
    "stats/**/*.py",
    "training/ladder/**/*.py",
    "features/engines/arrow_vector.py",
    "training/training_data.py",
    "training/train.py",
)


def inputs(manifest: Manifest, params: Params, project: Path) -> dict[str, str]:
    """Name -> hash of everything that decides a version's bytes. The names are those of the version's tags."""
    package = Path(next(iter(fraud.__path__)))
    sources = sorted({path for pattern in _SOURCES for path in package.glob(pattern)})
    return {
        "data_sha256": manifest.content_sha256,
        "params_sha256": params.fingerprint(*TRAINING_PARAMS),
        "lock_sha256": _digest(project, sorted((project / "requirements").glob("*.txt"))),
        "feature_hash": definition_hash(),
        "code_sha256": _digest(package, sources),
        "seed": str(params.training.seed),
    }


def fingerprint(made_from: Mapping[str, str]) -> str:
    """One hash over `inputs`."""
    return sha256(json.dumps(dict(made_from), sort_keys=True).encode()).hexdigest()


def _digest(root: Path, paths: Iterable[Path]) -> str:
    named = {str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest() for path in paths}
    return sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
