"""A commit's files in a folder of their own, an environment for them, and a job run there and nowhere else."""

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
"""Of the caller's environment: none of what points a job at stores, or seeds it."""


def clone(repository: str, commit: str, folder: Path) -> None:
    """The files of a commit, from a Git repository (path or URL). Raises RefusedError when it does not have it."""
    if shutil.which("git") is None:
        raise RefusedError(
            "git is not installed here", hint="run it where it is, or retrain from the present files: --here"
        )
    for arguments in (
        ("clone", "--quiet", "--no-checkout", repository, str(folder)),
        ("-C", str(folder), "checkout", "--quiet", "--detach", commit),
    ):
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RefusedError(
                f"commit {commit} cannot be checked out of {repository}", got=done.stderr.strip(),
                hint="name a repository that has it in FRAUD_REPOSITORY, or retrain from the present files with --here",
            )  # fmt: skip


def changed_files(repository: Path, commit: str) -> list[str]:
    """Files of a checkout that are not those of a commit; empty where Git cannot tell."""
    requested = [
        "git",
        "-C",
        str(repository),
        "diff",
        "--name-only",
        commit,
        "--",
        "src",
        "requirements",
        "params.yaml",
    ]
    done = subprocess.run(requested, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


def environment(project: Path, log: BoundLogger) -> Path:
    """A Python with what the project's locks name: the present one where it has just that, else one built for it.

    Raises UnavailableError when it cannot be built.
    """
    wanted = dict(pin for name in LOCKS for pin in _PIN.findall((project / "requirements" / name).read_text()))
    other = {name: version for name, version in wanted.items() if _installed(name) != version}
    if not other:
        log.info("the present environment is the one the locks name", packages=len(wanted))
        return Path(sys.executable)
    few = dict(sorted(other.items())[:5])
    log.info("building the environment the locks name", packages=len(wanted), different=len(other), first=few)
    ready = ".venv/ml/.ready"
    done = subprocess.run(
        ["make", "--silent", "-C", str(project), ready], env=_kept(), stdout=sys.stderr, text=True, check=False
    )
    if done.returncode or not (project / ready).exists():
        raise UnavailableError("the locked environment cannot be built", hint=f"make -C <checkout> {ready} says why")
    return project / ".venv/ml/bin/python"


def run_job(
    python: Path, source: Path, folder: Path, arguments: list[str], settings: Mapping[str, str], log: BoundLogger
) -> dict[str, Any]:
    """`fraud` of a checkout's own code with these settings and no others; its result. Its log is passed on.

    Raises FraudError with what it said when it fails.
    """
    command = [str(python), "-c", "from fraud.cli import main; main()", *arguments, "--json"]
    log.info("running", job=" ".join(arguments), source=str(source))
    done = subprocess.run(
        command, env={**_kept(), **settings, "PYTHONPATH": str(source)}, cwd=folder, stdout=subprocess.PIPE,
        text=True, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    answer: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if done.returncode or not answer:
        raise FraudError(
            f"fraud {arguments[0]} of the checkout failed", expected=str(answer.get("expected", "")),
            got=str(answer.get("message") or f"exit code {done.returncode}"), hint="its log is above",
        )  # fmt: skip
    return answer


def _installed(name: str) -> str:
    """The version without its local part: 2.13.0+cpu is torch 2.13.0."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return ""


def _kept() -> dict[str, str]:
    return {name: os.environ[name] for name in _KEPT if name in os.environ}
