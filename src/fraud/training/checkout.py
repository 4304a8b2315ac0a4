"""A clean checkout of a commit, the environment that its lock files name, and a job run in it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from structlog.stdlib import BoundLogger

from fraud.errors import FraudError, RefusedError, UnavailableError

LOCKS: Final = ("ml.txt", "torch.txt")
_PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+)", re.MULTILINE)
_KEPT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_FIND_LINKS",
                "PIP_CERT", "PIP_INDEX_URL", "UV_INDEX_URL", "TORCH_INDEX")  # fmt: skip
"""Environment variables that are passed on. Variables that name stores or seeds are not."""


def clone(repository: str, commit: str, folder: Path) -> None:
    """Check a commit of a Git repository (path or URL) out into `folder`. Raises RefusedError when that fails."""
    if shutil.which("git") is None:
        raise RefusedError("git is not installed", hint="install git, or retrain from the current files with --here")
    for arguments in (
        ("clone", "--quiet", "--no-checkout", repository, str(folder)),
        ("-C", str(folder), "checkout", "--quiet", "--detach", commit),
    ):
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RefusedError(
                f"commit {commit} cannot be checked out of {repository}", got=done.stderr.strip(),
                hint="set FRAUD_REPOSITORY to a repository with it, or retrain from the current files with --here",
            )  # fmt: skip


def changed_files(repository: Path, commit: str) -> list[str]:
    """Files of the checkout that differ from a commit; empty when `git diff` fails."""
    paths = ("src", "requirements", "params.yaml")
    command = ["git", "-C", str(repository), "diff", "--name-only", commit, "--", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


def environment(project: Path, log: BoundLogger) -> Path:
    """A Python with the packages of the project's lock files: the current one if it has them, otherwise a new one.

    Raises UnavailableError when it cannot be built.
    """
    pinned = dict(pin for name in LOCKS for pin in _PIN.findall((project / "requirements" / name).read_text()))
    other = {name: version for name, version in pinned.items() if _installed(name) != version}
    if not other:
        log.info("current environment matches the lock files", packages=len(pinned))
        return Path(sys.executable)
    few = dict(sorted(other.items())[:5])
    log.info("building an environment from the lock files", packages=len(pinned), different=len(other), first=few)
    ready = ".venv/ml/.ready"
    done = subprocess.run(
        ["make", "--silent", "-C", str(project), ready], env=_kept(), stdout=sys.stderr, text=True, check=False
    )
    if done.returncode or not (project / ready).exists():
        raise UnavailableError(
            "the locked environment cannot be built", hint=f"run make -C <checkout> {ready} to see the reason"
        )
    return project / ".venv/ml/bin/python"


def run_job(
    python: Path, source: Path, folder: Path, arguments: list[str], settings: Mapping[str, str], log: BoundLogger
) -> dict[str, Any]:
    """Run a job with the code in `source` and only these settings; the job's result. Its log goes to standard error.

    Raises FraudError with the message of the job when it fails.
    """
    command = [str(python), "-c", "from fraud.cli import main; main()", *arguments, "--json"]
    log.info("job started", job=" ".join(arguments), source=str(source))
    done = subprocess.run(
        command, env={**_kept(), **settings, "PYTHONPATH": str(source)}, cwd=folder, stdout=subprocess.PIPE,
        text=True, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    result: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if done.returncode or not result:
        raise FraudError(
            f"fraud {arguments[0]} of the checkout failed", expected=str(result.get("expected", "")),
            got=str(result.get("message") or f"exit code {done.returncode}"), hint="its log is above",
        )  # fmt: skip
    return result


def _installed(name: str) -> str:
    """The version without its local part: 2.13.0+cpu is torch 2.13.0."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return ""


def _kept() -> dict[str, str]:
    return {name: os.environ[name] for name in _KEPT if name in os.environ}
