"""Every curl example of docs/serving.md is run against a server. test_contract.py runs those of /docs."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from servers import Serving

DOC = (Path(__file__).parents[2] / "docs/serving.md").read_text()
BLOCKS = [block for block in re.findall(r"(?:^    .+\n)+", DOC, re.MULTILINE) if "curl " in block]


def run(command: list[str]) -> str:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def decisions(answer: str) -> list[dict[str, object]]:
    found = json.loads(answer)
    whole: list[dict[str, object]] = found.get("predictions", [found])
    return whole


def test_the_page_of_serving_has_its_examples() -> None:
    assert len(BLOCKS) == 5
    assert len([block for block in BLOCKS if "/predict" in block]) == 4


@pytest.mark.parametrize("block", BLOCKS, ids=[block.split("127.0.0.1:8000")[1].split()[0] for block in BLOCKS])
def test_an_example_of_the_documentation_is_answered(serving: Serving, versions: list[str], block: str) -> None:
    answer = run(["bash", "-c", block.replace("127.0.0.1:8000", f"127.0.0.1:{serving.port}")])
    if "/ready" in block:
        assert json.loads(answer) == {"ready": True, "model_version": versions[0], "store_connected": True}
        return
    for decision in decisions(answer):
        assert decision["model_version"] == versions[0]
        assert ("reasons" in decision) is ("explain=true" in block)
        assert all(category in block for category in decision["categories"].values())
