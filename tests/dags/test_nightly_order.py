"""`fraud nightly` runs the jobs of the scheduled DAGs: its chains agree with the DAGs in everything that both state."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag

from fraud_airflow.defaults import TASK_DEFAULTS

ROOT = Path(__file__).resolve().parents[2]
# The module imports the standard library only; the package `fraud` is not installed in Airflow's environment.
NIGHTLY = runpy.run_path(str(ROOT / "src/fraud/nightly/chains.py"))
CHAINS = {chain.dag: chain for chain in NIGHTLY["CHAINS"]}
BY_HAND = {"rollback_model"}
SCHEDULES = {"0 2 * * *": "night", "5 0 * * *": "night", "50 * * * *": "night", "0 5 * * 6": "Saturday"}
SCHEDULES["0 4 * * 0"] = "Sunday"
# Tasks that are no job; the nightly run has their part in `emits`, `emits_if`, `cause` and `needs_approval`.
NO_JOBS = {"delivery", "complete", "candidate", "request_retraining", "approval", "reject"}


@pytest.fixture(scope="module")
def bag() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAUD_KAFKA_BROKERS", "127.0.0.1:9")  # land_topics is scheduled with brokers only
        return DagBag(ROOT / "dags")


@pytest.fixture(params=sorted(CHAINS))
def pair(request: pytest.FixtureRequest, bag: Any) -> tuple[Any, Any]:
    return CHAINS[request.param], bag.dags[request.param]


def any_of(condition: Any) -> list[set[str]]:
    """The sets of assets each of which starts a DAG."""
    if condition is None:
        return []
    parts = getattr(condition, "objects", None)
    if parts is None:
        return [{condition.name}]
    if type(condition).__name__ == "AssetAny":
        return [names for part in parts for names in any_of(part)]
    return [{name for part in parts for names in any_of(part) for name in names}]


def test_every_dag_has_its_chain_except_those_that_a_person_triggers(bag: Any) -> None:
    assert set(CHAINS) == set(bag.dags) - BY_HAND


def test_a_chain_has_the_jobs_of_its_dag_in_its_order(pair: tuple[Any, Any]) -> None:
    chain, dag = pair
    tasks = [task for task in dag.topological_sort() if task.task_id not in NO_JOBS]
    assert [(step.task, step.job) for step in chain.steps] == [(task.task_id, task.job) for task in tasks]


def test_a_step_has_the_fields_of_its_task(pair: tuple[Any, Any]) -> None:
    chain, dag = pair
    for step in chain.steps:
        task = dag.get_task(step.task)
        assert (step.required, step.changes) == (task.required_fields, task.change_fields)
        if "{{" not in task.actor:
            assert step.actor == (task.actor or "nightly")


def test_a_step_has_the_flags_of_its_task(pair: tuple[Any, Any]) -> None:
    """Flags with a template differ in their value; those of manual runs are left out."""
    chain, dag = pair
    for step in chain.steps:
        given = dag.get_task(step.task).arguments
        names = {flag.partition("=")[0] for flag in given}
        literal = [flag for flag in given if "{{" not in flag]
        assert [flag for flag in step.arguments if flag in literal] == literal
        for flag in set(step.arguments) - set(literal):
            assert not flag.startswith("--") or flag.partition("=")[0] in names


def test_a_step_runs_after_the_same_states_of_the_steps_before_it(pair: tuple[Any, Any]) -> None:
    chain, dag = pair
    rules = {"all_success": "success", "none_failed": "no failure", "all_done": "any"}
    for step in chain.steps:
        task = dag.get_task(step.task)
        # `promote` follows the approval, which is skipped in a run without one; here it follows the gates.
        expected = rules[str(task.trigger_rule.value)] if step.task != "promote" else "success"
        independent = not task.upstream_task_ids and step is not chain.steps[0]
        assert step.after == ("any" if independent else expected)


def test_a_chain_is_started_by_the_assets_and_the_schedule_of_its_dag(pair: tuple[Any, Any]) -> None:
    chain, dag = pair
    condition = getattr(dag.timetable, "asset_condition", None)
    assert sorted(map(sorted, chain.started_by)) == sorted(map(sorted, any_of(condition)))
    assert chain.schedule == ("" if condition else SCHEDULES[dag.timetable.expression])


def test_a_chain_updates_the_assets_of_its_dag(pair: tuple[Any, Any]) -> None:
    chain, dag = pair
    found = {asset for step in chain.steps for asset in step.emits}
    found |= {"retraining_requested"} if any(step.cause for step in chain.steps) else set()
    assert found == {asset.name for task in dag.tasks for asset in task.outlets}


def test_the_causes_of_a_request_are_those_of_the_monitors(pair: tuple[Any, Any]) -> None:
    chain, dag = pair
    found = {}
    if dag.has_task("request_retraining"):
        results = dag.get_task("request_retraining").op_args[0]
        found = {cause: result.operator.task_id for cause, result in results.items()}
    assert {step.cause: step.task for step in chain.steps if step.cause} == found


def test_a_chain_comes_after_those_that_start_it() -> None:
    emitted = {asset: number for number, chain in enumerate(CHAINS.values()) for asset in assets_of(chain)}
    for number, chain in enumerate(CHAINS.values()):
        for asset in set().union(*chain.started_by) - {"retraining_requested"}:
            assert emitted[asset] < number, f"{asset} starts {chain.dag}"


def assets_of(chain: Any) -> set[str]:
    return {asset for step in chain.steps for asset in step.emits}


def test_a_job_has_as_many_tries_as_a_task() -> None:
    assert NIGHTLY["TRIES"] == TASK_DEFAULTS["retries"] + 1
