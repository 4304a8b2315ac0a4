"""The browser scorer and the what-if page: their own tests, in Node and in headless Chromium beside a server."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import edge_folder
import edge_node
import pytest
from servers import Registry, Serving, Valkey

_BUILT: Final = edge_node.ROOT / "edge/build/test"
_CHROMIUM: Final = os.environ.get("CHROMIUM") or shutil.which("chromium")
_NO_CHROMIUM: Final = edge_node.MISSING or ("" if _CHROMIUM else "chromium is not installed (Debian: chromium)")


def run(*files: Path, **environment: str) -> None:
    """Run test files in Node. Fails with their output."""
    command = [str(edge_node.NODE), "--test", "--test-reporter=spec", *map(str, files)]
    found = subprocess.run(command, env=dict(os.environ) | environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.skipif(bool(edge_node.MISSING), reason=edge_node.MISSING)
def test_the_scorers_own_tests_pass_in_node() -> None:
    files = sorted(_BUILT.glob("*.test.mjs"))
    assert files
    run(*files)


@pytest.mark.skipif(bool(_NO_CHROMIUM), reason=_NO_CHROMIUM)
def test_scorer_and_page_pass_their_tests_in_chromium_beside_a_server(
    registry: Registry, versions: list[str], shared_store: Valkey, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    edge_folder.write(folder, versions[7], *registry.files(7))
    registry.promote(versions[7])
    server = Serving(tmp_path / "serving", shared_store.url, registry, SERVING_WHAT_IF=str(folder)).start()
    try:
        for payment in edge_folder.payments()[:-1]:
            server.predict(**payment)
        address = f"http://127.0.0.1:{server.port}"
        run(_BUILT / "browser.chromium.mjs", FRAUD_EDGE_FOLDER=str(folder), FRAUD_EDGE_SERVING=address)
    finally:
        server.close()
