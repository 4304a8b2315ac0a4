"""Commits and tags of the project's Git checkout."""

import shutil
import subprocess
from pathlib import Path


def commit_of(project: Path) -> dict[str, str]:
    """The commit, and whether files differ from it. Both are for information and not part of the fingerprint."""
    stamp = project / "COMMIT"
    if stamp.is_file():
        commit, _, dirty = stamp.read_text().strip().partition("-")  # in the format of `git describe --dirty`
        return {"git_commit": commit or "unknown", "git_dirty": "true" if dirty else "false"}
    head, changed = _git(project, "rev-parse", "HEAD"), _git(project, "status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": head.stdout.strip() or "unknown" if head.returncode == 0 else "unknown",
        "git_dirty": "unknown" if changed.returncode else str(bool(changed.stdout.strip())).lower(),
    }


def tag(project: Path, name: str, commit: str, message: str) -> str:
    """Set an annotated Git tag, unless the commit has it already. Returns the reason of a failure, "" on success."""
    there = _git(project, "rev-parse", "--verify", "--quiet", f"refs/tags/{name}^{{commit}}")
    if there.returncode == 0:
        return "" if there.stdout.strip() == commit else f"tag {name} names {there.stdout.strip()} already"
    made = _git(project, "tag", "--annotate", "--message", message, name, commit)
    return made.stderr.strip() or "git failed" if made.returncode else ""


def _git(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Git in a checkout. Without Git, the result is a failure with exit code 127."""
    command = ["git", "-C", str(project), *arguments]
    if shutil.which("git") is None:
        return subprocess.CompletedProcess(command, 127, "", "git is not installed")
    return subprocess.run(command, capture_output=True, text=True, check=False)
