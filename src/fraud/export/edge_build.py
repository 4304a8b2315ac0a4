"""The browser scorer that `edge/` contains: its built files, and the programs that run in Node."""

import subprocess
from pathlib import Path
from typing import Final

from fraud.errors import RefusedError
from fraud.scoring import browser_runtime

_SCORER: Final = "fraud-scorer.js"
_LIMIT_S: Final = 120
_HINT: Final = "install Node 20 or later, then run make setup"


def built_files(project: Path) -> list[Path]:
    """The files of `edge/dist/web`; builds them if make setup installed what that needs.

    Raises RefusedError if Node is missing or the build fails.
    """
    edge = project / "edge"
    if browser_runtime.node() is None:
        raise RefusedError("the export for the web needs Node, which is not installed", hint=_HINT)
    if not (edge / "dist/web" / _SCORER).is_file():
        if not (edge / "node_modules").is_dir():
            raise RefusedError(
                "the browser scorer is not built", expected=f"{edge / 'dist/web'}", got="no such folder", hint=_HINT
            )
        _node(edge, "build.mjs")
    return sorted(path for path in (edge / "dist/web").iterdir() if path.is_file())


def verify(project: Path, folder: Path, manifest_sha256: str) -> None:
    """Load an exported folder in Node as a browser does: sha256 of its files, golden rows. Raises RefusedError."""
    found = _node(project / "edge", "dist/tools/verify.mjs", str(folder.resolve()))
    if manifest_sha256 not in found:
        raise RefusedError(
            "the browser scorer loaded another folder", expected=f"manifest {manifest_sha256}", got=found
        )


def _node(edge: Path, program: str, *arguments: str) -> str:
    """Run a program of `edge/` in Node; its standard output."""
    command = [browser_runtime.node() or "node", program, *arguments]
    try:
        run = subprocess.run(command, cwd=edge, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise RefusedError(f"node {program} did not finish", expected=f"an end within {_LIMIT_S} s") from None
    if run.returncode:
        raise RefusedError(
            f"node {program} failed", got=run.stderr.strip()[-1000:] or f"code {run.returncode}", hint=_HINT
        )
    return run.stdout
