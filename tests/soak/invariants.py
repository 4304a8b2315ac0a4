"""What must hold after every night. An invariant returns what is wrong, "" if nothing is."""

from collections.abc import Callable, Sequence
from typing import Final

from tests.soak.state import Observed

Invariant = Callable[[Observed], str]
LOST_BY_A_KILL: Final = 40
"""Answers whose record a SIGKILL of serving may lose: five times those of the 0.2 s that docs/serving.md states."""
DRIFT_WINDOW: Final = 7
"""Nights after a change until every day of drift's window (`drift.current_days`) is a changed one."""
QUALITY_GATES: Final = frozenset({"average_precision", "auc", "calibration_error", "calibration_ratio"})
"""Gates that wrong labels fail, apart from the comparison with Production."""


def conservation(seen: Observed) -> str:
    """Rows in = accepted + quarantined + duplicates, over all deliveries, and the lake has the accepted rows once."""
    wrong = []
    for name, feed in seen.feeds.items():
        total = feed.accepted + feed.quarantined + feed.duplicates
        if feed.rows != total:
            wrong.append(f"{name}: {feed.rows} rows in, {total} accounted for")
        if feed.delivered != feed.rows:
            wrong.append(f"{name}: {feed.delivered} rows delivered, {feed.rows} ingested")
        if feed.in_lake != feed.accepted:
            wrong.append(f"{name}: {feed.accepted} accepted, {feed.in_lake} in the lake")
        if feed.ids != feed.in_lake:
            wrong.append(f"{name}: {feed.in_lake - feed.ids} rows of the lake are repeated")
    return "; ".join(wrong)


def scored(seen: Observed) -> str:
    """Every accepted transaction of the scored days has one score, and nothing else has."""
    scores = seen.scores
    if not scores.days:
        return "no day has scores"
    wrong = {"transactions without a score": scores.unscored, "scores without a transaction": scores.unknown}
    return ", ".join(f"{count} {what}" for what, count in wrong.items() if count)


def answered(seen: Observed) -> str:
    """Every payment of the day got a 200, and its record is in the lake."""
    answers, wrong = seen.answers, []
    if answers.answered != answers.sent:
        wrong.append(f"{answers.sent - answers.answered} of {answers.sent} payments without a 200")
    allowed = LOST_BY_A_KILL if seen.serving_killed else 0
    if answers.unlogged > allowed:
        wrong.append(f"{answers.unlogged} answers without a record, at most {allowed} allowed")
    if answers.unreadable > (1 if seen.serving_killed else 0):
        wrong.append(f"{answers.unreadable} unreadable lines in the prediction log")
    return "; ".join(wrong)


def no_skew(seen: Observed) -> str:
    """Served features and probabilities equal those recomputed from the lake; the online store lost no event."""
    skew = seen.skew
    if not skew.compared:
        return f"none of {skew.records} answers could be compared: {skew.skipped}"
    wrong = {
        "served values differ": skew.mismatches, "probabilities differ": skew.probabilities_wrong,
        "events are lost": skew.events_lost,
    }  # fmt: skip
    return ", ".join(f"{count} {what}" for what, count in wrong.items() if count)


def history_verifies(seen: Observed) -> str:
    """The hash chain of the promotion history is intact."""
    return seen.registry.chain


def one_production(seen: Observed) -> str:
    """One version is Production: in the history, by alias, by stage and in serving."""
    registry = seen.registry
    if registry.in_stage != (registry.in_history,):
        return f"stage Production: {list(registry.in_stage)}; in the history: {registry.in_history}"
    found = {"alias": registry.alias, "served": registry.served}
    return ", ".join(f"{name}: {v}, history: {registry.in_history}" for name, v in found.items()
                     if v != registry.in_history)  # fmt: skip


def no_orphan(seen: Observed) -> str:
    """No process of the stack runs outside of its services."""
    return "; ".join(seen.orphans)


def runs_succeed(seen: Observed) -> str:
    """No task of Airflow failed for good, except those that a damaged file must fail."""
    wrong = [f"{name} failed" for name in seen.failed if name not in seen.expected_failures]
    wrong += [f"{name} did not fail" for name in seen.expected_failures if name not in seen.failed]
    return ", ".join(wrong)


def audits(seen: Observed) -> str:
    """A sample of answers and nightly rows has receipts without a problem, and replays to the same bits."""
    audit = seen.audit
    if not audit.sampled:
        return "nothing was sampled"
    return "; ".join([*audit.problems, *audit.different])


def bad_candidate_is_refused(seen: Observed) -> str:
    """A candidate that was trained on wrong labels fails a gate of its quality, and Production stays."""
    if not seen.candidate_is_bad:
        return ""
    registry = seen.registry
    if not QUALITY_GATES & set(registry.failed_gates):
        return f"version {registry.candidate} failed {list(registry.failed_gates)}, none of {sorted(QUALITY_GATES)}"
    if registry.in_history != seen.production_before:
        return f"Production changed from {seen.production_before} to {registry.in_history}"
    return ""


def rollback_restores(seen: Observed) -> str:
    """After a rollback, Production is the version before the release."""
    if not seen.rolled_back_to or seen.registry.in_history == seen.rolled_back_to:
        return ""
    return f"Production is {seen.registry.in_history}, expected {seen.rolled_back_to}"


INVARIANTS: Final[tuple[Invariant, ...]] = (
    conservation, scored, answered, no_skew, history_verifies, one_production, no_orphan, runs_succeed, audits,
    bad_candidate_is_refused, rollback_restores,
)  # fmt: skip


def data_drift_is_found(nights: Sequence[tuple[Sequence[str], Observed]]) -> str:
    """`monitor_drift` reports the data drift before its window has only changed days. Judged once, in that night."""
    changed = next((i for i, (events, _) in enumerate(nights) if "data drift" in events), len(nights))
    verdicts = [seen.monitors.drift for _, seen in nights[changed:]]
    if len(verdicts) != DRIFT_WINDOW or "drift" in verdicts:
        return ""
    return f"verdicts since the change: {', '.join(each or 'none' for each in verdicts)}"


def broken(seen: Observed) -> dict[str, str]:
    """What is wrong, by the invariant's name."""
    return {check.__name__: wrong for check in INVARIANTS if (wrong := check(seen))}
