"""Restart the whole running stack under load, and count what was accepted before and is there afterwards.

    python3 tests/deploy/restart.py [--rate 30] [--without SERVICE ...]          make stop, make up
    python3 tests/deploy/restart.py --kill                                       as root: SIGKILL to every container
    python3 tests/deploy/restart.py --rolling                                    make rolling-restart

A checkout sends payments at a constant rate through the proxy all the while. Afterwards each answer with 200 is looked
up in the prediction log by its id, the events of its user are counted in the online history, and every entry of
`fraud history` and every run of Airflow's from before must be there. After a kill, what is missing must have been
accepted within the stated guarantee before it (docs/deployment.md). Exit code 1 when more is missing, or a request
failed during a rolling restart. Prints a line of JSON.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from chaos import DEADLINE_S, QUIET_S, Load, checkout, containers, docker, inspect

ROOT: Final = Path(__file__).resolve().parents[2]
LOG_MAY_LOSE_S: Final = 0.2
HISTORY_MAY_LOSE_S: Final = 1.0
# Between an answer's way out of serving and its arrival here, and from the first container killed to the last.
SLACK_S: Final = 0.3


def logged() -> Counter[str]:
    """Ids in the prediction log, of all replicas and segments."""
    show = "find /var/lib/fraud/predictions -name 'segment-*.jsonl' -exec cat {} +"
    ids: Counter[str] = Counter()
    for line in docker("exec", containers()["serving-a"], "sh", "-c", show).splitlines():
        with suppress(json.JSONDecodeError):  # the torn last line of a replica that was killed
            ids[json.loads(line)["prediction_id"]] += 1
    return ids


def remembered(users: set[str]) -> dict[str, int]:
    """User -> events in the online history: 24 bytes each behind 16 of header (fraud.core.history)."""
    names = sorted(users)
    ask = "\n".join(f"STRLEN h:{{{name}}}" for name in names)
    script = 'REDISCLI_AUTH="$VALKEY_PASSWORD" valkey-cli'
    done = subprocess.run(
        ["docker", "exec", "-i", containers()["valkey"], "sh", "-c", script],
        input=ask, capture_output=True, text=True, check=True,
    )  # fmt: skip
    sizes = [int(line) for line in done.stdout.split()]
    return {name: max(0, size - 16) // 24 for name, size in zip(names, sizes, strict=True)}


def histories() -> tuple[list[Any], set[str]]:
    """The entries of `fraud history`, and Airflow's runs."""
    running = containers()
    changes = json.loads(docker("exec", running["exporter"], "fraud", "history", "--json").splitlines()[-1])["changes"]
    runs = "SELECT dag_id || ' ' || run_id FROM dag_run"
    found = docker("exec", running["postgres"], "psql", "-U", "postgres", "-d", "airflow", "-qAtc", runs)
    return changes, set(found.splitlines())


def make(target: str, *arguments: str) -> None:
    subprocess.run(["make", "--silent", target, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def kill_all() -> None:
    """SIGKILL to the first process of every container at once; wait until all of them are healthy again."""
    before = {name: inspect(identifier)["State"] for name, identifier in containers().items()}
    for state in before.values():
        os.kill(state["Pid"], signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        now = {name: inspect(identifier)["State"] for name, identifier in containers().items()}
        if now.keys() == before.keys() and all(
            state["StartedAt"] != before[name]["StartedAt"] and state["Health"]["Status"] == "healthy"
            for name, state in now.items()
        ):
            return
        time.sleep(0.5)
    sys.exit(f"not all healthy {DEADLINE_S:.0f} s after the kill")


def missing(load: Load, ended: float) -> tuple[list[float], list[float]]:
    """How long before the end each answer came that the log, and that the online history, does not have."""
    ids, stored = logged(), remembered({answer.user_id for answer in load.accepted})
    from_log = [ended - answer.at for answer in load.accepted if not ids[answer.prediction_id]]
    from_history = []
    for user in stored:
        # A lost end is the end: what is missing of a user's events are the latest before the kill.
        known = [a.at for a in load.accepted if a.user_id == user and a.in_history]
        lost = max(0, len(known) - stored[user])
        before = sorted(at for at in known if at < ended)
        from_history += [ended - at for at in before[len(before) - lost :]]
    return from_log, from_history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--rolling", action="store_true")
    parser.add_argument("--without", nargs="*", default=[])
    given = parser.parse_args()
    load, (changes, runs) = checkout(given.rate), histories()
    thread = threading.Thread(target=load.run)
    thread.start()
    try:
        time.sleep(QUIET_S)
        quiet, ended = load.window(), time.monotonic()
        if given.kill:
            kill_all()
        elif given.rolling:
            make("rolling-restart")
        else:
            make("stop")
            make("up", f"WITHOUT={' '.join(given.without)}")
        seconds = time.monotonic() - ended
        time.sleep(QUIET_S)
    finally:
        load.stopped.set()
        thread.join()
    during = load.window()
    time.sleep(2 * LOG_MAY_LOSE_S)  # what was answered last is on its way to the log
    from_log, from_history = missing(load, ended)
    changes_now, runs_now = histories()
    result = {
        "seconds": round(seconds, 1), "quiet": quiet, "during": during, "accepted": len(load.accepted),
        "missing_in_log": len(from_log), "missing_in_history": len(from_history),
        "oldest_missing_s": round(max([0.0, *from_log, *from_history]), 3),
        "history_entries": [len(changes), len(changes_now)], "airflow_runs": [len(runs), len(runs_now)],
    }  # fmt: skip
    print(json.dumps(result))
    allowed = (LOG_MAY_LOSE_S + SLACK_S, HISTORY_MAY_LOSE_S + SLACK_S) if given.kill else (0.0, 0.0)
    bad = [age for age in from_log if age > allowed[0]] + [age for age in from_history if age > allowed[1]]
    if not given.kill:
        bad = [*from_log, *from_history]
    failed = bool(given.rolling and during["not_200"])
    if bad or failed or changes_now[: len(changes)] != changes or not runs <= runs_now or quiet["not_200"]:
        sys.exit("not as promised")


if __name__ == "__main__":
    main()
