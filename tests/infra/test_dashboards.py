"""The committed dashboards: the output of their builder, Grafana's model, and the rules of its dashboard linter.

The rules are those of github.com/grafana/dashboard-linter, with two differences. Metrics are
named by their job, so a query has a matcher for the environment instead of one for the job. Only *Serving* has several
instances, so only its queries have a matcher for them, and recorded series have none.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard
from tests.infra.conftest import ROOT, THIRD_PARTY, metrics

sys.path.insert(0, str(ROOT / "infra/grafana"))
import build

RUNBOOKS: Final = ROOT / "docs/runbooks"
BOARDS: Final = {path.stem: json.loads(path.read_text()) for path in (ROOT / "infra/grafana/dashboards").glob("*.json")}
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
UNITS: Final = {value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_")}
SELECTOR: Final = re.compile(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}")
COUNTER: Final = re.compile(r"\w+_(?:total|bucket|sum|count)")


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """(dashboard, panel) of every panel that is not a row."""
    for name, board in sorted(BOARDS.items()):
        for panel in board["panels"]:
            if panel["type"] != "row":
                yield name, panel


def targets() -> list[tuple[str, str, dict[str, Any]]]:
    """(dashboard, title of the panel, query) of every query."""
    return [(name, panel["title"], target) for name, panel in panels() for target in panel["targets"]]


EACH_PANEL = pytest.mark.parametrize(
    ("board", "panel"), list(panels()), ids=lambda v: v if isinstance(v, str) else v["title"]
)
EACH_TARGET = pytest.mark.parametrize(
    ("board", "title", "target"), targets(), ids=lambda v: v if isinstance(v, str) else v["refId"]
)


@pytest.mark.parametrize("name", sorted(build.DASHBOARDS))
def test_a_dashboard_is_the_output_of_its_builder(name: str) -> None:
    path = ROOT / f"infra/grafana/dashboards/{name}.json"
    assert path.read_text() == build.text(name), "run: python infra/grafana/build.py"
    assert set(BOARDS) == set(build.DASHBOARDS)


def lost(given: Any, read: Any, path: str = "") -> list[str]:  # noqa: ANN401 - JSON
    """Paths of values that differ after reading. The reader adds defaults, and ignores names that the model lacks."""
    if isinstance(given, dict):
        inner = read if isinstance(read, dict) else {}
        return [gap for key in given for gap in lost(given[key], inner.get(key), f"{path}.{key}")]
    if isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        return [gap for index, (one, other) in enumerate(zip(given, read, strict=True))
                for gap in lost(one, other, f"{path}[{index}]")]  # fmt: skip
    return [] if given == read else [f"{path}: {given} became {read}"]


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_every_field_of_a_dashboard_is_in_grafanas_model(name: str) -> None:
    register_default_plugins()
    read = json.loads(json.dumps(Dashboard.from_json(BOARDS[name]), cls=JSONEncoder))
    # Annotations have fields of their data source, which the model does not list.
    assert [gap for gap in lost(BOARDS[name], read) if not gap.startswith(".annotations.list[0].titleFormat:")] == []


def test_dashboards_have_unique_ids_and_panels_do_not_overlap() -> None:
    assert {name: board["uid"] for name, board in BOARDS.items()} == {name: f"fraud-{name}" for name in BOARDS}
    for board in BOARDS.values():
        assert len({p["id"] for p in board["panels"]}) == len(board["panels"])
        assert len({p["title"] for p in board["panels"]}) == len(board["panels"])
        cells = [
            (x, y)
            for p in board["panels"]
            for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
            for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])
        ]
        assert len(cells) == len(set(cells)), board["title"]
        height = max(y for _, y in cells) + 1
        assert len(cells) == 24 * height, f"{board['title']} has a gap"


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_a_dashboard_has_variables_for_data_source_and_environment_and_is_not_editable(name: str) -> None:
    variables = {v["name"]: v for v in BOARDS[name]["templating"]["list"]}
    names = {"datasource", "environment", "docs"} | ({"instance"} if name == "serving" else set())
    assert set(variables) == names
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    for variable in variables.values():
        assert variable["label"]
        if variable["type"] == "query":
            assert variable["datasource"] == SOURCE
            assert variable["refresh"] == 2, "read again when the time range changes"
    assert not BOARDS[name]["editable"]


@EACH_PANEL
def test_a_panel_has_title_description_known_unit_thresholds_and_the_variable_data_source(
    board: str, panel: dict[str, Any]
) -> None:
    assert panel["title"], f"{board}: a panel without a title"
    assert panel["description"].endswith("."), "a sentence"
    assert panel["datasource"] == SOURCE
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None
    assert panel["targets"]
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert len(set(legends)) == len(legends)
    for override in panel["fieldConfig"]["overrides"]:
        assert override["matcher"]["options"] in legends


@EACH_TARGET
def test_a_query_reads_metrics_that_exist_of_one_environment(
    board: str, title: str, target: dict[str, Any], exposed: set[str]
) -> None:
    named = metrics(target["expr"])
    assert {name for name in named - exposed if not THIRD_PARTY.match(name)} == set()
    selectors = SELECTOR.findall(target["expr"])
    assert {name for name, _ in selectors} == named, f"{board}, {title}: a metric without a matcher"
    for name, matchers in selectors:
        assert 'environment="$environment"' in matchers or name == "ALERTS"
        scraped = name == "up" or name.startswith(("process_", "model_", "serving_", "stream_"))
        assert ("$instance" in matchers) == (board == "serving" and scraped)
    assert target["datasource"] == SOURCE


@EACH_TARGET
def test_a_rate_has_the_interval_of_grafana_and_is_summed(board: str, title: str, target: dict[str, Any]) -> None:
    expr = target["expr"]
    for function, inner in re.findall(r"\b(i?rate|increase)\(([^()]*)\)", expr):
        if function != "increase":
            assert inner.endswith("[$__rate_interval]"), f"{board}, {title}"
            assert target["interval"] == "1m"
        assert COUNTER.match(inner), f"{board}, {title}: a rate of {inner}"
    summed = re.findall(
        r"\bsum(?: by \([\w, ]+\))? \(?\(?i?rate\(|\bsum(?: by \([\w, ]+\))? ?\((?:i?rate|increase)\(", expr
    )
    assert len(summed) == len(re.findall(r"\b(?:i?rate|increase)\(", expr)), f"{board}, {title}: a rate without sum"
    for name in metrics(expr):
        if COUNTER.fullmatch(name) and not name.startswith("fraud_"):
            assert re.search(rf"(?:rate|increase)\({name}\b", expr), f"{board}, {title}: {name} is a counter"
    # Without observations a quantile is NaN, and Grafana draws no line of a series with NaN.
    if "histogram_quantile" in expr or "latency:p99" in expr:
        assert expr.endswith(" >= 0")


@EACH_TARGET
def test_a_legend_names_labels_that_the_query_keeps(board: str, title: str, target: dict[str, Any]) -> None:
    legend = target["legendFormat"]
    assert legend, f"{board}, {title}: a query without a legend"
    kept = {label for group in re.findall(r"\bby \(([\w, ]+)\)", target["expr"]) for label in group.split(", ")}
    if kept:
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) == kept - {"le"}
    elif re.search(r"\b(?:sum|max|min|count)\(", target["expr"]):
        assert "{{" not in legend


@EACH_PANEL
def test_single_values_are_of_now_and_lines_of_the_range(board: str, panel: dict[str, Any]) -> None:
    """A stat over the range would show the newest value of a series that has ended."""
    for target in panel["targets"]:
        assert target.get("instant", False) == (panel["type"] == "stat"), board
        assert target.get("range", True) == (panel["type"] == "timeseries"), board


def test_a_panel_links_its_runbooks_and_a_runbook_names_its_panels() -> None:
    linked = {Path(link["url"]).stem for _, panel in panels() for link in panel["links"]}
    pages = {path.stem for path in RUNBOOKS.glob("*.md")}
    assert linked == pages, "a runbook without a panel, or a link without a page"
    assert all(panel["links"] for _, panel in panels())
    for path in build.runbooks():
        assert path.read_text() == build.with_panels(path), "run: python infra/grafana/build.py"
        assert build.panels_of(path.stem) in path.read_text()


def test_provisioning_defines_the_data_source_of_the_panels() -> None:
    folder = ROOT / "infra/grafana/provisioning"
    source = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"][0]
    assert (source["type"], source["uid"]) == ("prometheus", "prometheus")
    for board in BOARDS.values():
        assert board["templating"]["list"][0]["current"]["value"] == source["uid"]
    provider = yaml.safe_load((folder / "dashboards/fraud.yml").read_text())["providers"][0]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
