"""The jobs of a night: a chain for each scheduled DAG, with what starts it and what it emits.

`tests/dags/test_nightly_order.py` compares the chains with the DAGs: jobs, order, flags, assets and schedules. That
test runs in Airflow's environment, so this module imports the standard library only.
"""

from collections.abc import Set as AbstractSet
from typing import Final, Literal, NamedTuple

TRIES: Final = 4
"""Of a job that ends with code 75 or by a signal. The DAGs have three retries."""

After = Literal["success", "no failure", "any"]
"""The states of earlier steps with which a step runs; "no failure" includes skipped ones."""


class Step(NamedTuple):
    """One job. `arguments` may contain `{cause}` and `{task[field]}`, a field of an earlier step's result.

    A step is skipped, with the steps that require its success, when a field of `required` is empty, or when all of
    `changes` are zero or empty.
    """

    task: str
    job: str
    arguments: tuple[str, ...] = ()
    after: After = "success"
    required: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    emits: tuple[str, ...] = ()
    """Assets that the step updates when it succeeds."""
    emits_if: str = ""
    """Field of the result that has to be true for `emits`; "": no condition."""
    cause: str = ""
    """Of a monitor: what it names as the cause when its result has `retrain`."""
    needs_store: bool = False
    """Skipped without an online store."""
    actor: str = "nightly"


class Chain(NamedTuple):
    """The steps of a DAG. `started_by`: any of these sets of assets, once all of a set were updated."""

    dag: str
    steps: tuple[Step, ...]
    schedule: Literal["", "night", "Saturday", "Sunday"] = ""
    started_by: tuple[AbstractSet[str], ...] = ()
    needs_brokers: bool = False
    """Not scheduled without Kafka brokers."""
    needs_approval: bool = False
    """Left to a person with FRAUD_APPROVAL=required."""

    def is_started_by(self, updated: AbstractSet[str]) -> bool:
        """Whether the updated assets start the chain."""
        return any(assets <= updated for assets in self.started_by)


RETRAINING_REQUESTED: Final = "retraining_requested"
_PRODUCTION: Final = Step("production_model", "production-version", required=("version",))

CHAINS: Final = (
    Chain(
        "land_topics",
        (
            Step("transactions", "ingest-topic", ("--feed=transactions",), changes=("files",)),
            Step("labels", "ingest-topic", ("--feed=labels",), after="any", changes=("files",)),
        ),
        schedule="night",
        needs_brokers=True,
    ),
    Chain(
        "expire_waivers",
        (
            Step(
                "expire_waivers", "expire-waivers", changes=("changed",), emits=("production_model",),
                actor="expire_waivers",
            ),
        ),
        schedule="night",
    ),
    Chain(
        "ingest_transactions",
        (
            Step("ingest", "ingest", changes=("accepted",), emits=("delivery",)),
            Step(
                "ingest_labels", "ingest-labels", after="no failure", changes=("accepted",),
                emits=("labels", "delivery"),
            ),
        ),
        schedule="night",
    ),
    Chain(
        "build_features",
        (
            Step("build_daily", "build-daily", ("--live",)),
            Step("build_features", "build-features", ("--live",), changes=("days_built",), emits=("features",)),
            Step("materialize", "materialize", ("--live",), after="no failure", needs_store=True),
        ),
        started_by=({"delivery"},),
    ),
    # Before the training, because promotion reads the newest check of skew.
    Chain(
        "monitor_skew",
        (Step("ship_predictions", "ship-predictions"), Step("skew", "skew", after="no failure", cause="skew")),
        started_by=({"features"},),
    ),
    Chain(
        "train_fraud_model",
        (
            Step("training_set", "training-set"),
            Step(
                "train", "train", ("--snapshot={training_set[snapshot]}", "--cause={cause}"),
                emits=("candidate",), emits_if="gates_passed",
            ),
        ),
        started_by=({"features", "labels"}, {RETRAINING_REQUESTED}),
    ),
    Chain(
        "promote_model",
        (
            Step("gates", "gates", ("staging",), required=("version",)),
            Step(
                "promote", "promote", ("--version={gates[version]}",), changes=("changed",),
                emits=("production_model",),
            ),
        ),
        started_by=({"candidate"},),
        needs_approval=True,
    ),
    # After the promotion, so that a night is scored once, by the version of the next day.
    Chain(
        "score_nightly",
        (
            _PRODUCTION,
            Step("score", "score", emits=("scores",)),
            Step("consistency", "consistency", required=("compared",)),
        ),
        started_by=({"features"}, {"production_model"}),
    ),
    Chain(
        "monitor_drift",
        (
            Step("drift", "drift", cause="data drift"),
            Step("concept_drift", "concept-drift", after="any", cause="concept drift"),
        ),
        started_by=({"scores"},),
    ),
    Chain("reproduce_model", (_PRODUCTION, Step("reproduce", "reproduce", ("production",))), schedule="Sunday"),
    Chain("apply_retention", (Step("apply_retention", "apply-retention"),), schedule="Saturday"),
)  # fmt: skip
"""In the order in which they run. A chain comes after those that start it, except that `monitor_drift` can start
another training of the same night."""
