"""The report of `fraud status` for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from fraud import printing
from fraud.printing import duration, figure
from fraud.status.changes import HASH_DIGITS, since
from fraud.status.facts import Facts
from fraud.status.problems import Problem

PROMOTIONS: Final = 5
Row = Mapping[str, object]


def text(facts: Facts, problems: Sequence[Problem], changes: Sequence[str]) -> str:
    """The verdict with every problem, then the facts as tables. A section without facts is left out."""
    lines = [verdict(problems), *(f"  {problem.line}" for problem in problems)]
    for title, rows in sections(facts).items():
        lines += ["", title, *(f"  {line}" for line in printing.table(rows))]
    lines += ["", "changes of the last day", *(f"  {line}" for line in changes or ("none",))]
    lines += ["", f"sources: {', '.join(source_states(facts))}"]
    return "\n".join(lines)


def sections(facts: Facts) -> dict[str, list[Row]]:
    """The facts as tables by title, without empty ones."""
    found = {
        "serving": served(facts), "figures": figures(facts), "data": datasets(facts), "alerts": alerts(facts),
        "last promotions": promotions(facts),
    }  # fmt: skip
    return {title: rows for title, rows in found.items() if rows}


def verdict(problems: Sequence[Problem]) -> str:
    """The first line."""
    if not problems:
        return "ok: no problem was found"
    return f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"


def source_states(facts: Facts) -> Iterator[str]:
    """The sources that were read, and which of them did not answer."""
    for source in facts.sources:
        yield f"{source.name} (no answer)" if source.problem else source.name


def served(facts: Facts) -> list[Row]:
    """A row for each version that answers, and for the production version."""
    production = facts.production.version if facts.production else None
    counted = {one.version: one for one in facts.served or ()}
    ready = facts.ready.version if facts.ready else None
    versions = dict.fromkeys(version for version in (production, ready, *counted) if version)
    registered = {version.version: version for version in facts.versions or ()}
    if facts.production is not None:
        registered[facts.production.version] = facts.production
    rows: list[Row] = []
    for version in versions:
        change, one = since(facts, version), counted.get(version)
        share = one.share if one else None
        known = registered.get(version)
        rows.append(
            {
                "version": version,
                "in production": version == production,
                "since (UTC)": f"{change.at:%Y-%m-%d %H:%M}" if change else None,
                "level": known.level if known else None,
                "declaration": known.declaration[:HASH_DIGITS] if known else None,
                "processes": str(one.processes) if one else None,
                "traffic": None if share is None else f"{share:.0%}",
            }
        )
    return rows


def figures(facts: Facts) -> list[Row]:
    """Traffic, degraded answers, skew and the stream."""
    rows: dict[str, str] = {}
    if (traffic := facts.traffic) is not None:
        rows["replicas up"] = f"{traffic.serving_up} of {traffic.serving_targets}"
        rows["answers"] = f"{figure(traffic.answers_per_second or 0.0)} per second"
        degraded = traffic.degraded_share
        rows["degraded answers"] = "no answers" if degraded is None else f"{degraded:.2%}"
        if traffic.consumers:
            rows["stream consumers up"] = f"{traffic.consumers_up} of {traffic.consumers}"
            rows["stream lag"] = f"{figure(traffic.lag_messages or 0.0)} messages"
    if (skew := facts.skew) is not None:
        wrong = sum(skew.mismatches.values())
        rows["skew"] = (
            f"{wrong:,} mismatches, {skew.events_lost:,} lost events, {skew.compared:,} answers of {skew.day}"
        )
    return [{"figure": name, "value": value} for name, value in rows.items()]


def datasets(facts: Facts) -> list[Row]:
    """Newest day and age of each dataset, then of the daily snapshots."""
    rows: list[Row] = [
        {
            "data": f"{d.dataset} {d.declaration}".rstrip(),
            "newest day": str(d.newest_day),
            "published": f"{duration(facts.now - d.published_at)} ago",
            "rows": d.rows,
            "online store": None,
        }
        for d in facts.datasets or ()
    ]
    online = {snapshot.table: snapshot.day for snapshot in facts.online_snapshots or ()}
    for snapshot in facts.snapshots or ():
        day = online.get(snapshot.table)
        rows.append(
            {
                "data": f"daily snapshot of {snapshot.entity}", "newest day": str(snapshot.day), "published": None,
                "rows": None, "online store": str(day) if day else None,
            }
        )  # fmt: skip
    return rows


def alerts(facts: Facts) -> list[Row]:
    """The alerts that fire, those without a severity left out."""
    return [
        {
            "alert": alert.name, "severity": alert.severity, "state": alert.state,
            "since (UTC)": f"{alert.since:%Y-%m-%d %H:%M}", "summary": alert.summary, "runbook": alert.runbook,
        }
        for alert in facts.alerts or ()
        if alert.severity != "none"
    ]  # fmt: skip


def promotions(facts: Facts) -> list[Row]:
    """The newest changes of Production."""
    return [
        {
            "at (UTC)": f"{change.at:%Y-%m-%d %H:%M}", "action": change.action, "version": change.version,
            "replaced": change.replaced, "actor": change.actor, "waived": change.waived or "-",
            "reason": change.reason,
        }
        for change in (facts.promotions or ())[:PROMOTIONS]
    ]  # fmt: skip
