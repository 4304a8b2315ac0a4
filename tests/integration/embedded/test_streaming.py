"""A broker and a consumer of the embedded stack: the demo's day through the topic, and the drill's faults."""

import re
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from tests.integration.broker import ROOT, write_day

from fraud.embedded import processes, services
from fraud.embedded.demo import Demo, Source
from fraud.embedded.fire_drill import faults, stream_faults
from fraud.embedded.fire_drill.faults import NotPossibleError, Site
from fraud.embedded.fire_drill.undo import Undo
from fraud.embedded.stack import Stack
from fraud.settings import Settings

DEADLINE_S = 90


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Store, broker and consumer. Without a model the level 0 rule decides."""
    project = tmp_path_factory.mktemp("project")
    for name in (".venv", "params.yaml", "feature_repo"):
        (project / name).symlink_to(ROOT / name)
    settings = Settings(home=project / "var", project=project)
    made = Stack.open(settings, usual_ports=False, stream=True)
    by_name = {service.name: service for service in services.all_services(made)}
    try:
        services.start_all(made, lambda _line: None, only=["valkey", "kafka"])
        services.restart(made, by_name["stream"], {"STREAM_MODEL_WAIT_SECONDS": "0"})
        yield made
    finally:
        services.stop_all(made, lambda _line: None)


@pytest.fixture
def site(stack: Stack) -> Site:
    return cast("Site", SimpleNamespace(stack=stack, undo=Undo(stack), traffic=SimpleNamespace(mean_amount=40.0)))


def metrics(stack: Stack) -> str:
    """All metrics of the consumer; "" while it does not answer."""
    try:
        return httpx.get(f"{stack.url('stream')}/metrics", timeout=4).text
    except httpx.HTTPError:
        return ""


def value(text: str, name: str) -> float:
    """The sum of a metric's series; -1 without an answer."""
    series = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, series)) if text else -1


def metric(stack: Stack, name: str) -> float:
    return value(metrics(stack), name)


def until(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_the_demo_sends_its_held_back_day_through_the_topic(stack: Stack) -> None:
    write_day(stack.home / "landing/held_back", 40)
    sent = Demo(stack, Source(("simulate",)), lambda _line: None)._send_held_back("1")
    assert (sent["sent"], sent["decided"], sent["rejected"], sent["undecided"]) == (40, 39, 1, 0)


def test_a_slow_consumer_falls_behind_and_catches_up(stack: Stack, site: Site) -> None:
    until(lambda: metric(stack, "stream_assigned_partitions") > 0, "no partition was assigned")
    with stream_faults.stream_behind(site):
        until(lambda: metric(stack, "stream_lag_messages") > 10_000, "the lag did not grow")
    until(lambda: metric(stack, "stream_lag_messages") == 0, "the lag did not fall")


def test_a_restarted_consumer_of_partitions_without_new_messages_has_no_lag(stack: Stack) -> None:
    """The committed offsets count, not the length of the partitions, of which one has 30,000 messages."""
    service = {service.name: service for service in services.all_services(stack)}["stream"]
    services.restart(stack, service, {"STREAM_MODEL_WAIT_SECONDS": "0"})
    text = ""

    def measured() -> bool:
        nonlocal text
        text = metrics(stack)
        return 0 < value(text, "stream_assigned_partitions") == text.count("stream_lag_messages{")

    until(measured, "the lag was not measured")
    assert value(text, "stream_lag_messages") == 0


def test_bad_messages_are_rejected(stack: Stack, site: Site) -> None:
    before = metric(stack, "stream_rejected_total")
    with stream_faults.bad_messages(site):
        until(lambda: metric(stack, "stream_rejected_total") >= before + 10, "nothing was rejected")


def test_a_stopped_consumer_does_not_answer_and_continues(stack: Stack, site: Site) -> None:
    with faults.frozen("stream")(site):
        assert metric(stack, "stream_assigned_partitions") == -1
    until(lambda: metric(stack, "stream_assigned_partitions") > 0, "the consumer did not continue")


def test_without_a_consumer_the_faults_are_not_possible(stack: Stack, site: Site) -> None:
    processes.stop("stream", stack.run)
    for fault in (stream_faults.stream_behind, stream_faults.bad_messages, faults.frozen("stream")):
        with pytest.raises(NotPossibleError, match="stream does not run"), cast("Any", fault)(site):
            pytest.fail("the fault was injected")
