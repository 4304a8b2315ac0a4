"""What a model was made from, as hashes: equal inputs have one fingerprint, whatever commit or folder they lie in."""

import json
import subprocess
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

import fraud
from fraud.core.features import definition_hash
from fraud.io.lake import Manifest
from fraud.params import Params

TRAINING_PARAMS: Final = ("split", "training", "costs", "drift")
"""Sections of params.yaml that decide a version's bytes; `gates` decide the verdict on it."""
_SOURCES: Final = ("core/**/*.py", "models/**/*.py", "engines/arrow_vector.py", "io/training_data.py", "jobs/train.py")


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


def git(project: Path) -> dict[str, str]:
    """Commit and whether files differed from it. For people: it does not enter the fingerprint."""

    def ask(*arguments: str) -> str | None:
        done = subprocess.run(["git", "-C", str(project), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    stamp = project / "COMMIT"
    commit = stamp.read_text().strip() if stamp.is_file() else ask("rev-parse", "HEAD")
    changed = "" if stamp.is_file() else ask("status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": commit or "unknown",
        "git_dirty": "unknown" if changed is None else str(bool(changed)).lower(),
    }


def tag(project: Path, name: str, commit: str, message: str) -> str:
    """Set an annotated Git tag; a tag of that name on the same commit stays. Returns why not, "" when it is there."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(project), *arguments], capture_output=True, text=True, check=False)

    there = git("rev-parse", "--verify", "--quiet", f"refs/tags/{name}^{{commit}}")
    if there.returncode == 0:
        return "" if there.stdout.strip() == commit else f"tag {name} names {there.stdout.strip()} already"
    return git("tag", "--annotate", "--message", message, name, commit).stderr.strip()


def _digest(root: Path, paths: Iterable[Path]) -> str:
    named = {str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest() for path in paths}
    return sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
