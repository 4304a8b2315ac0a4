"""Rows, panels and dashboards in Grafana's JSON model. boards/ contains what they show."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
RUNBOOKS: Final = "${docs}/runbooks"
COLUMNS: Final = 24
MIN_STEP: Final = "1m"
"""Of queries with a rate: $__rate_interval is at least four of them, so that a line is not a series of peaks."""
TOPS: Final = {"percentunit": 0.01, "reqps": 0.1, "cps": 0.1, "ops": 0.1, "short": 1.0}
"""Unit -> what an axis reaches at least. Without it, the axis of zeros only is 0 to 100, in percent 0 to 10,000 %."""
OK_OR_FAILED: Final = {1.0: ("ok", "green"), 0.0: ("failed", "red")}
FAILED_OR_OK: Final = {0.0: ("ok", "green"), 1.0: ("failed", "red")}
YES_OR_NO: Final = {1.0: ("yes", "green"), 0.0: ("no", "red")}
NO_OR_YES: Final = {0.0: ("no", "green"), 1.0: ("yes", "red")}

_SERIES: Final = re.compile(
    r'(?<![\w:"$.])((?:up|ALERTS|(?:process|fraud|model|serving|stream|platform|slo|prometheus)[_:][\w:]+))\b(?!\s*\()'
    r"(?:\{([^}]*)\})?"
)
_SCRAPED: Final = re.compile(r"(?:up|(?:process|model|serving|stream)_\w+)")
"""Series of serving and of the stream, which have an instance. Recorded series do not."""


def in_environment(expr: str, *, by_instance: bool = False) -> str:
    """A query with the dashboard's variables in each of its selectors."""

    def selector(found: re.Match[str]) -> str:
        name, matchers = found[1], [found[2]] if found[2] else []
        # An alert on something that is absent has no environment.
        matchers.append('environment=~"$environment|"' if name == "ALERTS" else 'environment="$environment"')
        if by_instance and _SCRAPED.fullmatch(name):
            matchers.append('instance=~"$instance"')
        return f"{name}{{{','.join(matchers)}}}"

    return _SERIES.sub(selector, expr)


@dataclass(frozen=True, slots=True)
class Row:
    """A heading of the panels below it, over the whole width."""

    title: str

    def as_json(self, number: int, place: Mapping[str, int]) -> dict[str, Any]:
        """The row in Grafana's JSON model."""
        return {
            "id": number, "type": "row", "title": self.title, "collapsed": False, "gridPos": dict(place), "panels": [],
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """`queries`: legend -> PromQL. `runbooks`: the alerts whose runbooks the panel links.

    `none` is shown instead of "No data". Values are orange from `warn`, red from `bad` and below `low`. `texts`:
    value -> text and color.
    """

    title: str
    description: str
    queries: Mapping[str, str]
    unit: str
    runbooks: tuple[str, ...]
    bad: float | None = None
    warn: float | None = None
    low: float | None = None
    decimals: int | None = None
    none: str = ""
    texts: Mapping[float, tuple[str, str]] = field(default_factory=dict)

    def steps(self) -> list[dict[str, Any]]:
        """Grafana's thresholds, lowest first. Without a limit, values have the color of text."""
        if self.low is None and self.warn is None and self.bad is None:
            return [{"color": "text", "value": None}]
        found: list[dict[str, Any]] = [{"color": "green" if self.low is None else "red", "value": None}]
        found += [{"color": "green", "value": self.low}] * (self.low is not None)
        found += [{"color": "orange", "value": self.warn}] * (self.warn is not None)
        return found + [{"color": "red", "value": self.bad}] * (self.bad is not None)

    def options(self) -> dict[str, Any]:
        """Options of the kind of panel."""
        raise NotImplementedError

    def defaults(self) -> dict[str, Any]:
        """Field defaults of the kind of panel."""
        raise NotImplementedError

    def overrides(self) -> list[dict[str, Any]]:
        """Field configuration of single series."""
        return []

    def as_json(self, number: int, place: Mapping[str, int], *, by_instance: bool) -> dict[str, Any]:
        """The panel in Grafana's JSON model."""
        targets = []
        for index, (legend, expr) in enumerate(self.queries.items()):
            target = {
                "refId": chr(ord("A") + index), "datasource": SOURCE,
                "expr": in_environment(expr, by_instance=by_instance), "legendFormat": legend,
            }  # fmt: skip
            # A range query would show the newest value of the whole range, also of a series that has ended.
            instant = {} if isinstance(self, Lines) else {"instant": True, "range": False}
            targets.append(target | instant | ({"interval": MIN_STEP} if "$__rate_interval" in expr else {}))
        mappings = [
            {"type": "value", "options": {f"{value:g}": {"text": text, "color": color, "index": index}}}
            for index, (value, (text, color)) in enumerate(self.texts.items())
        ]
        decimals = {} if self.decimals is None else {"decimals": self.decimals}
        return {
            "id": number,
            "type": "timeseries" if isinstance(self, Lines) else "stat",
            "title": self.title,
            "description": self.description,
            "datasource": SOURCE,
            "gridPos": dict(place),
            "targets": targets,
            "fieldConfig": {
                "defaults": {
                    "unit": self.unit,
                    "thresholds": {"mode": "absolute", "steps": self.steps()},
                    **decimals,
                    **({"noValue": self.none} if self.none else {}),
                    **({"mappings": mappings} if mappings else {}),
                    **self.defaults(),
                },
                "overrides": self.overrides(),
            },
            "options": self.options(),
            "links": [
                {"title": f"Runbook: {name}", "url": f"{RUNBOOKS}/{name}.md", "targetBlank": True}
                for name in self.runbooks
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat(Panel):
    """One value. `named`: show the legend instead of it."""

    named: bool = False

    def options(self) -> dict[str, Any]:
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "graphMode": "none",
            "textMode": "name" if self.named else "value",
            "colorMode": "value",
        }

    def defaults(self) -> dict[str, Any]:
        return {"color": {"mode": "thresholds"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles(Panel):
    """One tile for each series, with its legend and its newest value. `named`: the legend alone."""

    named: bool = False

    def options(self) -> dict[str, Any]:
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "graphMode": "none",
            "textMode": "name" if self.named else "value_and_name",
            "colorMode": "background" if self.texts else "value",
            "justifyMode": "center",
            "text": {"titleSize": 14, "valueSize": 20},
        }

    def defaults(self) -> dict[str, Any]:
        return {"color": {"mode": "thresholds"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines(Panel):
    """Series over time. `top`, `bottom`: the axis reaches at least to this value, so that a limit near it is visible.

    `limits`: legends of limits, which are red and dashed; `references`: of expected values, which are dashed. `signed`:
    values may be negative. `many`: a series for each feature or job, so the legend is a table beside the graph.
    """

    top: float | None = None
    bottom: float | None = None
    limits: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    signed: bool = False
    many: bool = False

    def options(self) -> dict[str, Any]:
        legend = {"showLegend": True, "calcs": ["lastNotNull"]}
        table = {"displayMode": "table", "placement": "right", "sortBy": "Last *", "sortDesc": True}
        small = {"displayMode": "list", "placement": "bottom"}
        return {
            "legend": legend | (table if self.many else small),
            "tooltip": {"mode": "multi", "sort": "desc"},
        }

    def defaults(self) -> dict[str, Any]:
        limited = self.warn is not None or self.bad is not None or self.low is not None
        soft = {"axisSoftMax": self.top or TOPS.get(self.unit), "axisSoftMin": self.bottom}
        style = {"thresholdsStyle": {"mode": "dashed" if limited else "off"}}
        return {
            "color": {"mode": "palette-classic"},
            "custom": {
                "fillOpacity": 0 if self.many or self.signed else 5,
                "showPoints": "never" if self.many else "auto",
                **style,
                **{name: value for name, value in soft.items() if value is not None},
            },
            **({} if self.signed else {"min": 0}),
        }

    def overrides(self) -> list[dict[str, Any]]:
        dash = {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [10, 10]}}
        bare = [{"id": "custom.fillOpacity", "value": 0}, {"id": "custom.showPoints", "value": "never"}]
        red = {"id": "color", "value": {"mode": "fixed", "fixedColor": "red"}}
        by_name = [(name, [dash, *bare, red]) for name in self.limits]
        by_name += [(name, [dash, *bare]) for name in self.references]
        return [
            {"matcher": {"id": "byName", "options": name}, "properties": properties} for name, properties in by_name
        ]


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard. `by_instance`: it has a variable for single replicas."""

    title: str
    description: str
    panels: Sequence[Panel | Row]
    by_instance: bool = False


def _size(panels: Sequence[Panel | Row]) -> tuple[int, int]:
    """Width and height of neighbouring panels of one kind."""
    match panels[0]:
        case Row():
            return COLUMNS, 1
        case Stat():
            if COLUMNS % len(panels):
                raise ValueError(f"{len(panels)} stats do not fill a row: {[panel.title for panel in panels]}")
            return COLUMNS // len(panels), 3
        case Tiles():
            return COLUMNS, 4
        case Lines(many=True):
            return COLUMNS, 9
        case _:
            return (COLUMNS if len(panels) == 1 else COLUMNS // 2), 8


def _kind(panel: Panel | Row) -> object:
    return type(panel), getattr(panel, "many", False)


def placed(panels: Sequence[Panel | Row]) -> list[tuple[Panel | Row, dict[str, int]]]:
    """Each panel with its place. Stats share a row, lines are in pairs; the last of an odd number is wide."""
    found: list[tuple[Panel | Row, dict[str, int]]] = []
    y = 0
    for _, group in groupby(panels, key=_kind):
        members = list(group)
        width, height = _size(members)
        for index, panel in enumerate(members):
            x = index * width % COLUMNS
            last = index == len(members) - 1
            found.append((panel, {"x": x, "y": y, "w": COLUMNS - x if last else width, "h": height}))
            if x + width == COLUMNS or last:
                y += height
    return found


def _variable(name: str, label: str, metric: str, **more: object) -> dict[str, Any]:
    query = {"query": f"label_values({metric}, {name})", "refId": name}
    return {"name": name, "label": label, "type": "query", "datasource": SOURCE, "query": query, "refresh": 2, **more}


def dashboard(uid: str, board: Board) -> dict[str, Any]:
    """The dashboard in Grafana's JSON model."""
    variables: list[dict[str, Any]] = [
        {
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
            "current": {"text": "Prometheus", "value": "prometheus"},
        },
        _variable("environment", "Environment", "up", sort=1),
    ]  # fmt: skip
    if board.by_instance:
        metric = 'up{job=~"serving|stream",environment="$environment"}'
        every = {"text": "All", "value": "$__all"}
        multiple = {"multi": True, "includeAll": True, "allValue": ".+", "current": every}
        variables.append(_variable("instance", "Replica", metric, sort=1, **multiple))
    # The URL of docs/. Grafana does not get external labels, so the exporter exposes it as a metric.
    docs = {"query": "label_values(fraud_docs_info, url)", "refId": "docs"}
    variables.append(
        {"name": "docs", "label": "Documentation", "type": "query", "datasource": SOURCE, "query": docs, "refresh": 2,
         "hide": 2}
    )  # fmt: skip
    panels = []
    for number, (panel, place) in enumerate(placed(board.panels), start=1):
        if isinstance(panel, Row):
            panels.append(panel.as_json(number, place))
        else:
            panels.append(panel.as_json(number, place, by_instance=board.by_instance))
    return {
        "uid": f"fraud-{uid}",
        "title": board.title,
        "description": board.description,
        "tags": ["fraud"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
        "templating": {"list": variables},
        "links": [{"title": "Dashboards", "type": "dashboards", "tags": ["fraud"], "asDropdown": True}],
        "annotations": {
            "list": [
                {
                    "name": "Alerts",
                    "datasource": SOURCE,
                    "expr": in_environment('ALERTS{alertstate="firing",alertname!="Watchdog"}'),
                    "titleFormat": "{{alertname}}",
                    "iconColor": "red",
                    "enable": True,
                }
            ]
        },
        "panels": panels,
    }
