"""The browser scorer is built for an export where make setup installed its packages."""

import shutil
from pathlib import Path

import pytest
from tests.browser import ROOT, needs_edge

from fraud.errors import RefusedError
from fraud.export.edge_build import built_files

needs_packages = pytest.mark.skipif(
    not (ROOT / "edge/node_modules").is_dir(),
    reason="the build of edge/ is not tested: its packages are not installed; install Node, then run make setup",
)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A project with the sources of edge/ and its packages, not built."""
    shutil.copytree(
        ROOT / "edge", tmp_path / "edge", ignore=shutil.ignore_patterns("node_modules", "dist", "build"), symlinks=True
    )
    (tmp_path / "edge/node_modules").symlink_to(ROOT / "edge/node_modules")
    return tmp_path


@needs_edge
@needs_packages
def test_the_scorer_is_built_from_its_sources(sources: Path) -> None:
    built = {path.name: path.stat().st_size for path in built_files(sources)}
    assert set(built) == {path.name for path in (ROOT / "edge/dist/web").iterdir()}
    assert min(built.values()) > 0


@needs_edge
@needs_packages
def test_a_build_that_fails_is_refused_with_its_message(sources: Path) -> None:
    (sources / "edge/src/index.ts").write_text("export const = 1;\n")
    with pytest.raises(RefusedError, match=r"node build\.mjs failed") as refused:
        built_files(sources)
    assert "index.ts" in refused.value.got
