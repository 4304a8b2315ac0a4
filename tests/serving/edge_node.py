"""The browser scorer's code in Node: what edge/dist/tools has, for comparisons with serving's code."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
NODE: Final = shutil.which("node")
TOOLS: Final = ROOT / "edge/dist/tools"
MISSING: Final = (
    "node is not installed (Debian: nodejs 20 or later)" if NODE is None
    else "" if (TOOLS / "features.mjs").is_file()
    else "edge/dist does not exist; run make setup"
)  # fmt: skip
"""Why the tests cannot run; "" if they can."""


class Features:
    """A process that computes the features of payments as the browser does."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def of(self, declaration: object, now_us: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Per row of {transaction, history, daily}: the line that edge/tools/features.ts describes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = json.dumps({"declaration": declaration, "now_us": now_us, "rows": rows})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "node ended"
        found: list[dict[str, Any]] = json.loads(answer)
        return found


@contextmanager
def features() -> Iterator[Features]:
    """The process, ended afterwards."""
    command = [str(NODE), str(TOOLS / "features.mjs")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Features(process)
        assert process.stdin is not None
        process.stdin.close()
