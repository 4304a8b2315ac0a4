"""Restart the whole running stack under load, and count accepted requests whose records are missing afterwards.

    python3 tests/deploy/restart.py [--rate 30] [--without SERVICE ...]          make stop, make up
    python3 tests/deploy/restart.py --kill                                       as root: SIGKILL to every container
    python3 tests/deploy/restart.py --rolling                                    make rolling-restart

Payments are sent at a constant rate through the proxy during the restart. Afterwards each answer with 200 is looked up
in the prediction log by its id, the events of its user are counted in the online history, and every earlier entry of
`fraud history` and every earlier run of Airflow must exist. After a kill, missing records must be of requests that were
accepted within the guarantee before it (docs/deployment.md). Exit code 1 when more is missing, or a request failed
during a rolling restart. Prints a line of JSON.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

from chaos import DEADLINE_S, QUIET_S, Load, checkout, containers, docker, inspect

ROOT: Final = Path(__file__).resolve().parents[2]
LOG_MAY_LOSE_S: Final = 0.2
HISTORY_MAY_LOSE_S: Final = 1.0
# From the end of an answer in serving to its arrival here, and from the first to the last killed container.
SLACK_S: Final = 0.3


def logged() -> Counter[str]:
    """Ids in the prediction log, of all replicas and segments."""
    show = "find /var/lib/fraud/predictions -name 'segment-*.jsonl' -exec cat {} +"
    ids: Counter[str] = Counter()
    for line in docker("exec", containers()["serving-a"], "sh", "-c", show).splitlines():
        with suppress(json.JSONDecodeError):  # the torn last line of a replica that was killed
            ids[json.loads(line)["prediction_id"]] += 1
    return ids


def online_events(users: set[str]) -> dict[str, int]:
    """User -> number of events in the online history: 24 bytes each after a header of 16 (fraud.core.history)."""
    names = sorted(users)
    ask = "\n".join(f"STRLEN h:{{{name}}}" for name in names)
    script = 'REDISCLI_AUTH="$VALKEY_PASSWORD" valkey-cli'
    done = subprocess.run(
        ["docker", "exec", "-i", containers()["valkey"], "sh", "-c", script],
        input=ask, capture_output=True, text=True, check=True,
    )  # fmt: skip
    sizes = [int(line) for line in done.stdout.split()]
    return {name: max(0, size - 16) // 24 for name, size in zip(names, sizes, strict=True)}


def histories() -> tuple[list[str], set[str]]:
    """The entries that `fraud history` lists, with their hashes, and Airflow's runs."""
    ask = ("exec", containers()["postgres"], "psql", "-U", "postgres", "-qAtc")
    changes = docker(*ask, "SELECT sequence, entry, hash FROM promotion_history ORDER BY sequence", "fraud")
    runs = docker(*ask, "SELECT dag_id || ' ' || run_id FROM dag_run", "airflow")
    return changes.splitlines(), set(runs.splitlines())


def make(target: str, *arguments: str) -> None:
    done = subprocess.run(["make", target, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"make {target} failed: {done.stderr[-2000:]}")


def kill_all() -> float:
    """Send SIGKILL to the first process of every container. Returns the time, once all are healthy again."""
    before = {name: inspect(identifier)["State"] for name, identifier in containers().items()}
    killed_at = time.monotonic()
    for state in before.values():
        os.kill(state["Pid"], signal.SIGKILL)
    while time.monotonic() < killed_at + DEADLINE_S:
        time.sleep(0.5)
        now = {name: inspect(identifier)["State"] for name, identifier in containers().items()}
        well = {name for name, state in now.items() if state["Health"]["Status"] == "healthy"}
        ailing = [n for n in before if n not in well or now[n]["StartedAt"] == before[n]["StartedAt"]]
        if not ailing:
            break
    else:
        print(f"not healthy {DEADLINE_S:.0f} s after the kill: {', '.join(ailing)}", file=sys.stderr)
    return killed_at


def missing(load: Load, ended: float) -> tuple[list[float], list[float]]:
    """Seconds from each answer that the log, or the online history, does not have to the end; below 0 when after it."""
    ids, stored = logged(), online_events({answer.user_id for answer in load.accepted})
    from_log = [ended - answer.at for answer in load.accepted if not ids[answer.prediction_id]]
    from_history = []
    for user, count in stored.items():
        accepted = sorted(a.at for a in load.accepted if a.user_id == user and a.in_history)
        lost = max(0, len(accepted) - count)
        # A store that loses its last second loses the latest events before the end.
        before = [at for at in accepted if at < ended][::-1][:lost]
        from_history += [ended - at for at in before] + [-math.inf] * (lost - len(before))
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
            ended = kill_all()
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
    time.sleep(2 * LOG_MAY_LOSE_S)  # the last records may not be written yet
    from_log, from_history = missing(load, ended)
    changes_now, runs_now = histories()
    result = {
        "seconds": round(seconds, 1), "quiet": quiet, "during": during, "accepted": len(load.accepted),
        "missing_in_log": len(from_log), "missing_in_history": len(from_history),
        "missing_s_before": sorted(round(age, 3) for age in [*from_log, *from_history]),
        "history_entries": [len(changes), len(changes_now)], "airflow_runs": [len(runs), len(runs_now)],
    }  # fmt: skip
    print(json.dumps(result))
    in_log, in_history = (LOG_MAY_LOSE_S, HISTORY_MAY_LOSE_S) if given.kill else (-math.inf, -math.inf)
    lost = any(age > in_log + SLACK_S or age < -SLACK_S for age in from_log)
    lost |= any(age > in_history + SLACK_S or age < -SLACK_S for age in from_history)
    gone = changes_now[: len(changes)] != changes or not runs <= runs_now
    if lost or gone or quiet["not_200"] or (given.rolling and during["not_200"]):
        sys.exit("not as promised")


if __name__ == "__main__":
    main()
