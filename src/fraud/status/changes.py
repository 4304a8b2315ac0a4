"""What changed in the last day, from the facts."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from fraud.printing import duration
from fraud.status.facts import Facts, Promotion

WINDOW: Final = timedelta(days=1)
HASH_DIGITS: Final = 12


def changes(facts: Facts) -> list[str]:
    """One line for each change: of Production, of the declaration that serves, new versions, failed runs of DAGs."""
    return [*_promotions(facts), *_declaration(facts), *_versions(facts), *_runs(facts)]


def since(facts: Facts, version: str) -> Promotion | None:
    """The newest change of Production to a version."""
    return next((p for p in facts.promotions or () if p.version == version), None)


def _promotions(facts: Facts) -> Iterator[str]:
    for change in facts.promotions or ():
        if facts.now - change.at < WINDOW:
            replaced = f" replaced version {change.replaced}" if change.replaced else " is the first in production"
            waived = f"; waived: {change.waived}" if change.waived else ""
            age = duration(facts.now - change.at)
            yield (
                f"{age} ago: version {change.version}{replaced} ({change.action} by {change.actor}: "
                f"{change.reason}{waived})"
            )


def _declaration(facts: Facts) -> Iterator[str]:
    """Production has another feature declaration than a day ago; features.yaml has another one than Production."""
    if facts.production is None:
        return
    now = facts.production.declaration
    earlier = [p.version for p in facts.promotions or () if facts.now - p.at >= WINDOW]
    declared = {version.version: version.declaration for version in facts.versions or ()}
    before = declared.get(earlier[0]) if earlier else None
    if before and before != now:
        yield f"feature declaration of Production: {before[:HASH_DIGITS]} before, {now[:HASH_DIGITS]} now"
    if facts.declaration != now:
        yield (
            f"features.yaml ({facts.declaration[:HASH_DIGITS]}) differs from the declaration of Production "
            f"({now[:HASH_DIGITS]})"
        )


def _versions(facts: Facts) -> Iterator[str]:
    for version in facts.versions or ():
        if facts.now - version.created_at < WINDOW:
            level = f", level {version.level}" if version.level else ""
            yield f"{duration(facts.now - version.created_at)} ago: version {version.version} was registered{level}"


def _runs(facts: Facts) -> Iterator[str]:
    for run in facts.dag_runs or ():
        if run.failed:
            yield f"{duration(facts.now - run.ended_at)} ago: the run {run.run} of the DAG {run.dag} failed"
