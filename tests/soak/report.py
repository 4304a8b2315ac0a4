"""The results of a soak: a table for a terminal, JSON, and an HTML page with plots."""

import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import jinja2
from tests.soak import growth, invariants
from tests.soak.resources import Usage
from tests.soak.state import Observed

from fraud import printing
from fraud.training import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]
CHECKS: Final = (*invariants.INVARIANTS, invariants.data_drift_is_found, growth.bounded_growth)
_HERE: Final = Path(__file__).parent


def result(arguments: Record, nights: Sequence[Record]) -> dict[str, Any]:
    """The record of the report. `ok` is whether no invariant broke in any night."""
    usage = [Usage.of(night["observed"]["usage"]) for night in nights]
    broken = [
        {"night": night["night"], "invariant": name, "found": wrong}
        for night in nights
        for name, wrong in night["broken"].items()
    ]
    counted = Counter(each["invariant"] for each in broken)
    return {
        "ok": bool(nights) and not broken, "machine": f"{platform.machine()}, {platform.system()}",
        "arguments": dict(arguments), "nights": [row(night, usage[: i + 1]) for i, night in enumerate(nights)],
        "seconds": round(sum(night["seconds"] for night in nights), 1),
        "invariants": [
            {"name": name, "nights": _judged(name, nights, usage), "broken": counted[name]}
            for name in (check.__name__ for check in CHECKS)
        ],
        "broken": broken, "times": times(nights), "growth": [each._asdict() for each in growth.judge(usage)],
    }  # fmt: skip


def _judged(name: str, nights: Sequence[Record], usage: Sequence[Usage]) -> int:
    """Nights in which an invariant could break: those with its event, or with enough nights before them."""
    of_event = {"bad_candidate_is_refused": "bad candidate", "rollback_restores": "rollback"}
    if name in of_event:
        return sum(of_event[name] in night["events"] for night in nights)
    if name == invariants.data_drift_is_found.__name__:
        return sum("data drift" in night["events"] for night in nights[: -invariants.DRIFT_WINDOW + 1])
    if name == growth.bounded_growth.__name__:
        return sum(any(g.limit is not None for g in growth.judge(usage[: i + 1])) for i in range(len(nights)))
    return max(len(nights) - 1, 0)


def times(nights: Sequence[Record]) -> list[dict[str, Any]]:
    """Seconds of the steps of a night and of Airflow's tasks, which run side by side; the longest first."""
    steps = [
        {"traffic": n["traffic_s"], "checks": n["checked_s"], "jobs": n["seconds"] - n["traffic_s"] - n["checked_s"]}
        for n in nights[1:]
    ]
    found = []
    for parts in (steps, [night["tasks"] for night in nights[1:]]):
        names = dict.fromkeys(name for part in parts for name in part)
        taken = {name: [part[name] for part in parts if name in part] for name in names}
        rows = [
            {"step": name, "nights": len(s), "median s": median(s), "longest s": max(s)} for name, s in taken.items()
        ]
        found += sorted(rows, key=lambda one: -one["median s"])
    return found


def row(night: Record, usage: Sequence[Usage]) -> dict[str, Any]:
    """A night's line of the table."""
    seen = Observed.of(night["observed"])
    now, before = usage[-1], usage[-2] if len(usage) > 1 else usage[-1]
    disk, disk_before = sum(now.disk_mb.values()), sum(before.disk_mb.values())
    rows, rows_before = sum(now.rows.values()), sum(before.rows.values())
    feed = seen.feeds["transactions"]
    return {
        "night": night["night"], "delivery": night["delivery"], "events": ", ".join(night["events"]),
        "killed": night["killed"], "broken": ", ".join(night["broken"]), "s": round(night["seconds"]),
        "accepted": feed.accepted, "quarantined": feed.quarantined, "duplicates": feed.duplicates,
        "scores": seen.scores.rows, "answers": seen.answers.answered, "degraded": seen.answers.degraded,
        "skew": seen.skew.mismatches, "drift": seen.monitors.drift, "concept": seen.monitors.concept,
        "replayed": seen.audit.equal, "production": seen.registry.in_history, "newest": seen.registry.candidate,
        "disk MB": round(disk), "+MB": round(disk - disk_before, 1), "db rows": rows, "+rows": rows - rows_before,
        "memory MB": round(sum(s.memory_mb for s in now.services.values())),
        "files": sum(s.open_files for s in now.services.values()),
    }  # fmt: skip


def as_text(found: Record) -> str:
    """The tables for a terminal."""
    nights = len(found["nights"]) - 1
    verdict = "no invariant broken" if found["ok"] else f"{len(found['broken'])} broken"
    lines = [*printing.table([{k: v if v != "" else None for k, v in night.items()} for night in found["nights"]]), ""]
    if found["times"]:
        lines += ["seconds of a night", *printing.table(found["times"]), ""]
    judged = [g for g in found["growth"] if g["limit"] is not None]
    if judged:
        lines += ["growth per night", *printing.table(judged), ""]
    lines += [f"night {b['night']}: {b['invariant']}: {b['found']}" for b in found["broken"]]
    return "\n".join([*lines, f"{nights} nights in {found['seconds'] / 60:.1f} minutes: {verdict}"])


def page(found: Record, nights: Sequence[Record]) -> str:
    """The report as one self-contained HTML page."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.FunctionLoader(_template)
    )
    environment.filters["cell"] = printing.cell
    checks = {check.__name__: check.__doc__ for check in CHECKS}
    return environment.get_template("report.html.j2").render(r=found, checks=checks, plots=_plots(nights))


def _template(name: str) -> str:
    own = _HERE / name
    return own.read_text() if own.is_file() else files("fraud.training").joinpath(name).read_text()


def _plots(nights: Sequence[Record]) -> list[str]:
    usage = [Usage.of(night["observed"]["usage"]) for night in nights]
    seen = [Observed.of(night["observed"]) for night in nights]
    services = sorted({name for each in usage for name in each.services})
    folders = sorted({name for each in usage for name in each.disk_mb})
    largest = sorted(folders, key=lambda name: -usage[-1].disk_mb.get(name, 0.0))[:6] if usage else []
    of_memory = {n: [u.services[n].memory_mb if n in u.services else None for u in usage] for n in services}
    of_files = {n: [u.services[n].open_files if n in u.services else None for u in usage] for n in services}
    drawn = (
        ("Seconds of a night", "s", {"all": [n["seconds"] for n in nights],
                                     "checks": [n["checked_s"] for n in nights]}),
        ("Answers of the day", "payments", {"answered": [s.answers.answered for s in seen],
                                            "degraded": [s.answers.degraded for s in seen]}),
        ("Disk", "MB", {name: [u.disk_mb.get(name, 0.0) for u in usage] for name in largest}),
        ("Rows of the databases", "rows", {n: [u.rows.get(n, 0) for u in usage] for n in growth._names(
            u.rows for u in usage)}),
        ("Memory of the services", "MB", of_memory),
        ("Open files of the services", "files", of_files),
    )  # fmt: skip
    return [plots.svg(plots._figure(_drawer(title, unit, lines, nights))) for title, unit, lines in drawn]


def _drawer(
    title: str, unit: str, lines: Mapping[str, Sequence[Any]], nights: Sequence[Record]
) -> Callable[["Axes"], None]:
    def draw(axes: "Axes") -> None:
        drawn = []
        for i, values in enumerate(lines.values()):
            points = [(night["night"], value) for night, value in zip(nights, values, strict=True) if value is not None]
            style = "-" if i < len(plots._COLOURS) else "--"
            drawn += axes.plot(*zip(*points, strict=True), color=plots._COLOURS[i % len(plots._COLOURS)],
                               linewidth=1.6, linestyle=style, marker="o", markersize=2)  # fmt: skip
        for night in nights:
            if night["events"]:
                axes.axvline(night["night"], color="#8a94a3", linewidth=0.8, linestyle=":")
            if night["events"] and len(lines) == 2:  # where lines leave room for text
                axes.annotate(
                    ", ".join(night["events"]), (night["night"], 0.03), xycoords=("data", "axes fraction"), rotation=90,
                    ha="right", va="bottom", fontsize=6.5, color="#5f6b7a",
                )  # fmt: skip
        axes.set(title=title, xlabel="night", ylabel=unit, ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
        # Below the axes, because the services have too many names for a legend on the lines.
        axes.get_figure(root=True).legend(drawn, list(lines), loc="outside lower center", ncols=3, fontsize=7)

    return draw
