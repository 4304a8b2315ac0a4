"""Promotions that are killed, run at the same time or bypass the platform; a history that was changed."""

import itertools
import multiprocessing
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr
from tests import postgres
from tests.integration.registry_platform import Platform

from fraud.errors import RefusedError
from fraud.registry.model_versions import MODEL_NAME, PRODUCTION
from fraud.registry.promotion_log import PREVIOUS, STAGING, opened
from fraud.settings import Settings


def _kill_before_alias(settings: Settings, version: str) -> None:
    """Promote, and die like kill -9 between the announcement and the alias's move."""
    with opened(settings) as promotion:
        chosen = promotion._client.get_model_version(MODEL_NAME, version)
        promotion._client.set_registered_model_alias = lambda *_: os._exit(9)
        promotion.change("promote", lambda _current, _history: chosen, actor="grace", reason="better")


def test_killed_before_the_alias_moved_nothing_has_happened_and_a_rerun_promotes(platform: Platform) -> None:
    first = platform.register()
    platform.fraud("promote")
    second = platform.register(champion=first)
    process = multiprocessing.get_context("spawn").Process(target=_kill_before_alias, args=(platform.settings, second))
    process.start()
    process.join(120)
    assert process.exitcode == 9
    assert [c["version"] for c in platform.fraud("history")[1]["changes"]] == [first]
    assert (platform.alias(PRODUCTION), platform.alias(PREVIOUS), platform.alias(STAGING)) == (first, None, second)
    assert platform.fraud("promote")[1]["replaced"] == first
    assert [c["actor"] for c in platform.fraud("history")[1]["changes"]] == ["ada", "ada"]


def _kill_after_alias(settings: Settings, version: str, expected_current: str | None) -> None:
    """Promote, and die like kill -9 between the alias's move and the history entry."""
    with opened(settings) as promotion:
        promotion._append = lambda *_: os._exit(9)  # type: ignore[method-assign]
        chosen = promotion._client.get_model_version(MODEL_NAME, version)
        promotion.change("promote", lambda _current, _history: chosen, actor="grace", reason="better")


def test_killed_after_the_alias_moved_the_next_one_completes_the_history(platform: Platform) -> None:
    first = platform.register()
    platform.fraud("promote")
    second = platform.register(champion=first)
    process = multiprocessing.get_context("spawn").Process(
        target=_kill_after_alias, args=(platform.settings, second, first)
    )
    process.start()
    process.join(120)
    assert process.exitcode == 9
    assert platform.alias(PRODUCTION) == second
    code, result = platform.fraud("history")
    assert code == 0
    last = result["changes"][-1]
    assert (last["action"], last["version"], last["replaced"], last["actor"]) == ("promote", second, first, "grace")
    assert (platform.alias(PREVIOUS), platform.alias(STAGING)) == (first, None)
    assert platform.stages() == {first: "Archived", second: "Production"}


def test_an_alias_moved_by_hand_is_recorded_as_observed(platform: Platform) -> None:
    first = platform.register()
    platform.fraud("promote")
    second = platform.register(champion=first, staging=False)
    platform.client.set_registered_model_alias(MODEL_NAME, PRODUCTION, second)
    _, result = platform.fraud("history")
    assert [(c["action"], c["version"]) for c in result["changes"]] == [("promote", first), ("observed", second)]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The platform's control database: a file, or a server as where the platform is deployed."""
    if request.param == "sqlite":
        yield
        return
    programs = postgres.programs()
    if programs is None:
        pytest.skip("PostgreSQL's server is not on this machine: install the package postgresql")
    with postgres.running(programs) as url:
        monkeypatch.setenv("FRAUD_CONTROL_DB", url)
        platform.settings = platform.settings.model_copy(update={"control_db": SecretStr(url)})
        yield


def _open(settings: Settings) -> int:
    with opened(settings) as promotion:
        return len(promotion.history())


@pytest.mark.usefixtures("database")
def test_the_first_ones_at_once_make_one_set_of_tables(platform: Platform) -> None:
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(_open, [platform.settings] * 20)) == [0] * 20


def _move(settings: Settings, version: str | None) -> bool:
    with opened(settings) as promotion:
        try:
            if version is None:
                changed = promotion.change(
                    "rollback",
                    lambda _c, h: promotion._client.get_model_version(MODEL_NAME, h[-1].entry.replaced or "1"),
                    actor="ada", reason="back",
                )  # fmt: skip
            else:
                chosen = promotion._client.get_model_version(MODEL_NAME, version)
                changed = promotion.change("promote", lambda _c, _h: chosen, actor="ada", reason="up")
        except RefusedError:
            return False
        return changed is not None


def _move_all(settings: Settings, expected: list[str | None]) -> list[bool]:
    """All at once, each with connections of its own."""
    with ThreadPoolExecutor(len(expected)) as pool:
        return list(pool.map(lambda version: _move(settings, version), expected))


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(("count", "processes"), [(8, 2), pytest.param(20, 4, marks=pytest.mark.slow)])
def test_changes_at_once_leave_one_production_and_a_whole_history(
    platform: Platform, count: int, processes: int
) -> None:
    """20: four processes, each with five threads; 14 promotions and 6 rollbacks."""
    first = platform.register(staging=False)
    with opened(platform.settings) as promotion:
        chosen = promotion._client.get_model_version(MODEL_NAME, first)
        promotion.change("promote", lambda _c, _h: chosen, actor="ada", reason="first")
    expected: list[str | None] = [
        None if i % 10 in (3, 6, 9) else platform.register(staging=False) for i in range(count)
    ]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        parts = pool.starmap(
            _move_all, [(platform.settings, expected[i::processes]) for i in range(processes)], chunksize=1
        )
    changed = sum(itertools.chain(*parts))
    with opened(platform.settings) as promotion:
        recorded = promotion.verify()
    print(f"{count} at once: {changed} took effect, {count - changed} were refused; {len(recorded)} entries verify")
    assert len(recorded) == 1 + changed
    assert changed >= 1
    for before, after in itertools.pairwise(recorded):
        assert after.entry.replaced == before.entry.version
    assert platform.alias(PRODUCTION) == recorded[-1].entry.version
    assert platform.alias(PREVIOUS) == recorded[-1].entry.replaced
    assert list(platform.stages().values()).count("Production") == 1


def test_a_changed_byte_in_the_history_is_told(platform: Platform) -> None:
    platform.register()
    platform.fraud("promote")
    with sqlite3.connect(platform.home / "control.db") as database:
        database.execute("UPDATE promotion_history SET entry = replace(entry, 'ada', 'eve')")
    code, result = platform.fraud("history")
    assert (code, result["message"]) == (3, "the promotion history was changed at entry 1")
