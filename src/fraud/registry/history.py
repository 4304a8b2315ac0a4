"""Verify the hash chain of the promotion history and print every change of Production and every export."""

from collections.abc import Mapping
from typing import Any

from fraud import printing
from fraud.job import Context, JobConfig, JobResult
from fraud.registry.promotion_log import EXPORT, opened


class Config(JobConfig):
    """No parameters."""


class Result(JobResult):
    """`changes` and `exports` are oldest first. `verified` is always True: the job fails otherwise."""

    verified: bool
    production: str | None
    changes: tuple[dict[str, Any], ...]
    exports: tuple[dict[str, Any], ...]

    def as_text(self) -> str:
        production = f"version {self.production}" if self.production else "none"
        title = f"Production: {production}; changes: {len(self.changes):,}; the hash chain is intact"
        lines = [title, *printing.table(map(_row, self.changes))]
        if self.exports:
            lines += ["", f"exports: {len(self.exports):,}", *printing.table(map(_export_row, self.exports))]
        return "\n".join(lines)


def _row(change: Mapping[str, Any]) -> dict[str, object]:
    row = {name: change[name] for name in ("sequence", "at", "action", "version", "replaced", "actor")}
    waiver = change["waiver"]
    waived = f"{', '.join(waiver['gates'])} until {waiver['expires']}" if waiver else None
    return {**row, "waived": waived, "reason": change["reason"]}


def _export_row(entry: Mapping[str, Any]) -> dict[str, object]:
    row = {name: entry[name] for name in ("sequence", "at", "version", "actor")}
    return {**row, "target": entry["export"]["target"], "sha256": entry["export"]["sha256"], "reason": entry["reason"]}


def run(_config: Config, context: Context) -> Result:
    """Verify and list. Raises RefusedError with the first entry that was changed."""
    with opened(context.settings) as promotion:
        production = promotion.repair()
        recorded = promotion.verify()
    entries = [{"sequence": r.sequence, **r.entry.model_dump(mode="json"), "hash": r.hash} for r in recorded]
    changes, exports = (tuple(e for e in entries if (e["action"] == EXPORT) is of) for of in (False, True))
    return Result(verified=True, production=production, changes=changes, exports=exports)
