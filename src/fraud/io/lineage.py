"""What a model was made from, as hashes: equal inputs have one fingerprint, whatever commit or folder they lie in."""

import json
import shutil
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
    stamp = project / "COMMIT"
    if stamp.is_file():
        commit, _, dirty = stamp.read_text().strip().partition("-")  # as `git describe --dirty` says it
        return {"git_commit": commit or "unknown", "git_dirty": "true" if dirty else "false"}
    head, changed = _git(project, "rev-parse", "HEAD"), _git(project, "status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": head.stdout.strip() or "unknown" if head.returncode == 0 else "unknown",
        "git_dirty": "unknown" if changed.returncode else str(bool(changed.stdout.strip())).lower(),
    }


def tag(project: Path, name: str, commit: str, message: str) -> str:
    """Set an annotated Git tag; a tag of that name on the same commit stays. Returns why not, "" when it is there."""
    there = _git(project, "rev-parse", "--verify", "--quiet", f"refs/tags/{name}^{{commit}}")
    if there.returncode == 0:
        return "" if there.stdout.strip() == commit else f"tag {name} names {there.stdout.strip()} already"
    made = _git(project, "tag", "--annotate", "--message", message, name, commit)
    return made.stderr.strip() or "git said no" if made.returncode else ""


def _git(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What Git says of a checkout; a failure where it is not installed."""
    command = ["git", "-C", str(project), *arguments]
    if shutil.which("git") is None:
        return subprocess.CompletedProcess(command, 127, "", "git is not installed")
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _digest(root: Path, paths: Iterable[Path]) -> str:
    named = {str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest() for path in paths}
    return sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
