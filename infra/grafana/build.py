"""Write dashboards/*.json, and the line of each runbook that names its panels.

Run it after a change of boards/: `python infra/grafana/build.py`. A test fails when the files differ from its output.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from boards import data_and_drift, model_health, pipelines, serving
from panels import Board, Panel, dashboard

FOLDER: Final = Path(__file__).parent / "dashboards"
RUNBOOKS: Final = Path(__file__).parents[2] / "docs/runbooks"
DASHBOARDS: Final[Mapping[str, Board]] = {
    "serving": serving.BOARD,
    "model-health": model_health.BOARD,
    "data-and-drift": data_and_drift.BOARD,
    "pipelines": pipelines.BOARD,
}
_LINE: Final = re.compile(r"^\* Dashboard .*$", re.MULTILINE)


def text(name: str) -> str:
    """The content of a dashboard's file."""
    return json.dumps(dashboard(name, DASHBOARDS[name]), indent=1) + "\n"


def _linking(runbook: str) -> Iterator[tuple[str, Board, list[str]]]:
    for name, board in DASHBOARDS.items():
        titles = [p.title for p in board.panels if isinstance(p, Panel) and runbook in p.runbooks]
        if titles:
            yield name, board, titles


def panels_of(runbook: str) -> str:
    """The line of a runbook with the dashboards and panels that link it. Raises ValueError if there are none."""
    places = [
        f"*{board.title}* (Grafana, `/d/fraud-{name}`): " + ", ".join(f"*{title}*" for title in titles)
        for name, board, titles in _linking(runbook)
    ]
    if not places:
        raise ValueError(f"no panel links the runbook {runbook}; add it to `runbooks` of a panel in boards/")
    return f"* Dashboard {'; dashboard '.join(places)}."


def with_panels(path: Path) -> str:
    """The content of a runbook with its line of panels."""
    return _LINE.sub(lambda _: panels_of(path.stem), path.read_text(), count=1)


def runbooks() -> list[Path]:
    """The page of each alert."""
    return [path for path in sorted(RUNBOOKS.glob("*.md")) if path.stem != "README"]


if __name__ == "__main__":
    for each in DASHBOARDS:
        (FOLDER / f"{each}.json").write_text(text(each))
    for page in runbooks():
        page.write_text(with_panels(page))
