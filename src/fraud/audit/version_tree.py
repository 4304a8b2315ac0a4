"""Print a version as a tree: model, run, code, data, ladder, gates, decisions and nightly scores."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg

from fraud.core.declaration_types import CategoryColumn, RequestFeature
from fraud.errors import RefusedError
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog
from fraud.printing import figure
from fraud.registry import model_versions
from fraud.registry.mlflow_client import ModelVersion, registry_errors
from fraud.registry.promotion_log import Recorded, opened
from fraud.registry.training_runs import TrainingRuns
from fraud.settings import Settings


class Config(JobConfig):
    """Version."""

    version: CliPositionalArg[str] = Field(default="production", description="number or alias")


class Node(BaseModel):
    """A line of the tree and its children."""

    model_config = ConfigDict(frozen=True)

    text: str
    below: tuple["Node", ...] = ()

    def lines(self, indent: str = "", last: bool | None = None) -> list[str]:
        """The lines of the tree, indented by `indent`. `last`: whether this is the last sibling; None for the root."""
        mark = "" if last is None else ("└─ " if last else "├─ ")
        more = "" if last is None else ("   " if last else "│  ")
        drawn = [indent + mark + self.text]
        for i, node in enumerate(self.below):
            drawn += node.lines(indent + more, i == len(self.below) - 1)
        return drawn


class Result(JobResult):
    """The tree; `facts` are the version's tags."""

    version: str
    facts: dict[str, str]
    tree: Node

    def as_text(self) -> str:
        return "\n".join(self.tree.lines())


def run(config: Config, context: Context) -> Result:
    """Build the tree. Raises RefusedError for an unknown version, UnavailableError without the registry."""
    settings = context.settings
    with registry_errors(), opened(settings) as promotion:
        version = model_versions.named(settings, config.version)
        number, tags = str(version.version), dict(version.tags)
        history = promotion.entries()
        try:
            promotion.verify()
            chain = "history verified"
        except RefusedError as error:
            chain = error.message
        aliases = [a for a in ("production", "previous", "staging") if _is(promotion.version(a), number)]
        training = json.loads(model_versions.artifact(settings, version.run_id, "training.json"))
        verdict: dict[str, Any] = {}
        if tags.get("gates") in ("passed", "failed"):
            verdict = json.loads(model_versions.artifact(settings, version.run_id, "report/gates.json"))
        url = TrainingRuns(settings).url(version.run_id)
        declared = _declared(settings, version)
    title = f"fraud-detector version {number}{' (' + ', '.join(aliases) + ')' if aliases else ''}"
    branches = (
        _model(tags),
        declared,
        Node(text=f"run {version.run_id}", below=(Node(text=url),)),
        _code(tags),
        _data(tags, training, settings.lake_uri),
        _ladder(training),
        _gates(verdict, f"{settings.reports_uri.rstrip('/')}/training/{version.run_id}/gates.html"),
        _decisions(number, tags, history, chain),
        _scores(number, settings.lake_uri),
    )
    return Result(version=number, facts=tags, tree=Node(text=title, below=branches))


def _is(version: ModelVersion | None, number: str) -> bool:
    return version is not None and str(version.version) == number


def _leaves(title: str, facts: Mapping[str, str]) -> Node:
    width = max(map(len, facts), default=0)
    return Node(text=title, below=tuple(Node(text=f"{name:<{width}}  {value}") for name, value in facts.items()))


def _tags(tags: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: tags.get(name) or "unknown" for name in names}


def _model(tags: Mapping[str, str]) -> Node:
    return _leaves("model", _tags(tags, "level", "threshold", "model_sha256", "serving_sha256", "feature_hash"))


def _declared(settings: Settings, version: ModelVersion) -> Node:
    """The feature declaration in the version, or why there is none."""
    try:
        plan = model_versions.plan_of(settings, version)
    except RefusedError as error:
        return Node(text=f"no feature declaration, so its answers cannot be replayed: {error.message}")
    declaration = plan.declaration
    facts = {"hash": plan.hash, "stored_hash": plan.stored_hash, "columns": ", ".join(plan.columns) or "none declared"}
    for kind, some in (
        ("request", declaration.requests), ("window", declaration.windows()), ("daily", declaration.daily_features()),
    ):  # fmt: skip
        entities = sorted({f.entity for f in some if not isinstance(f, RequestFeature)})
        facts[kind] = f"{len(some)} features" + (f" of {', '.join(entities)}" if entities else "")
    lists = {n: c.values for n, c in declaration.columns.items() if isinstance(c, CategoryColumn) and c.learn}
    facts |= {f"values of {name}": ", ".join(found or ()) for name, found in sorted(lists.items())}
    return _leaves(f"feature declaration, {len(plan.vector.names)} inputs of the model", facts)


def _code(tags: Mapping[str, str]) -> Node:
    dirty = {"false": "clean", "true": "with uncommitted changes"}.get(tags.get("git_dirty", ""), "state unknown")
    facts = _tags(tags, "code_sha256", "lock_sha256", "params_sha256", "seed")
    if "reproduced" in tags:
        facts["reproduced"] = tags["reproduced"]
    return _leaves(f"code of commit {tags.get('git_commit', 'unknown')}, {dirty}", facts)


def _data(tags: Mapping[str, str], training: Mapping[str, Any], lake_uri: str) -> Node:
    snapshot = tags.get("snapshot", "")
    partition = catalog.TRAINING_SETS.at(lake_uri).partition(snapshot)
    size = "no longer in the lake" if partition is None else f"{partition.rows:,} rows"
    parts = [
        Node(
            text=f"{name:<10}  {part['first_day']} to {part['end_day']}, {part['rows']:,} rows, {part['frauds']} frauds"
        )
        for name, part in training["parts"].items()
        if isinstance(part, Mapping)
    ]
    facts = {"data_sha256": tags.get("data_sha256", "unknown")}
    if tags.get("dvc_data_md5"):
        facts["dvc_data_md5"] = tags["dvc_data_md5"]
    if partition is not None:
        facts |= {f"made from {name}": value for name, value in sorted(partition.made_from.items())}
    tree = _leaves(f"trained on snapshot {snapshot}, {size}", facts)
    return tree.model_copy(update={"below": (*tree.below, *parts)})


def _ladder(training: Mapping[str, Any]) -> Node:
    levels = []
    for level in training["levels"]:
        value, low, high = level["holdout"]["average_precision"]
        mark = ", selected" if level["level"] == training["selected"] else ""
        name = f"{level['level']}-{level['name']}"
        levels.append(
            Node(text=f"{name:<12}  average precision {figure(value)} ({figure(low)} to {figure(high)}){mark}")
        )
    return Node(text="ladder, on the holdout", below=tuple(levels))


def _gates(verdict: Mapping[str, Any], report: str) -> Node:
    if not verdict:
        return Node(text="gates: not evaluated")
    gates = tuple(
        Node(
            text=f"{'passed' if gate['passed'] else 'FAILED'}  {gate['name']:<23} "
            f"{'not measured' if gate['value'] is None else figure(gate['value'])}, {gate['comparison']} "
            f"{figure(gate['threshold'])}"
        )
        for gate in verdict["gates"]
    )
    word = "passed" if verdict["gates_passed"] else "failed"
    return Node(text=f"gates {word}, compared with {verdict['opponent']}", below=(*gates, Node(text=report)))


def _decisions(number: str, tags: Mapping[str, str], history: Sequence[Recorded], chain: str) -> Node:
    made = []
    for row in history:
        entry = row.entry
        if number not in (entry.version, entry.replaced):
            continue
        what = f"{entry.action} to version {entry.version}" + (f" from {entry.replaced}" if entry.replaced else "")
        if entry.export:
            what = f"exported for {entry.export.target}, manifest {entry.export.sha256}"
        waiver = entry.waiver
        below = (
            (Node(text=f"waived {', '.join(waiver.gates)} until {waiver.expires}: {waiver.reason}"),) if waiver else ()
        )
        made.append(Node(text=f"{entry.at}  {what}, by {entry.actor}: {entry.reason}", below=below))
    if "rejected_by" in tags:
        made.append(Node(text=f"{tags['rejected_at']}  rejected, by {tags['rejected_by']}: {tags['rejection_reason']}"))
    return Node(text=f"decisions ({chain})", below=tuple(made) or (Node(text="none yet"),))


def _scores(number: str, lake_uri: str) -> Node:
    made = {
        day: partition
        for day, partition in catalog.SCORES.at(lake_uri).open().contents.partitions.items()
        if partition.made_from.get("model_version") == number
    }
    if not made:
        return Node(text="nightly scores: none")
    rows = sum(partition.rows for partition in made.values())
    return Node(text=f"nightly scores: {rows:,} rows of {len(made)} day(s), {min(made)} to {max(made)}")
