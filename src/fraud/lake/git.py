"""Commits and tags of the project's Git checkout."""

import shutil
import subprocess
from pathlib import Path


def commit_of(project: Path) -> dict[str, str]:
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
