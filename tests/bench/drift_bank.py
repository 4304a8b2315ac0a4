"""Detection times for a bank of injected drifts in simulated transactions, and false alerts on days without drift.

    .venv/ml/bin/python tests/bench/drift_bank.py --seeds 1 2 3 --clean 4 5 6 7 8 9 10

Each seed is one simulation: a model is fitted on its first months, and scores the next days without a change (false
alerts in 100 days) and with a change injected from one day on (nights until each detector reports it, 1 is the first).
Detectors are those of the platform: `fraud drift` (a feature is reported; verdict `drift`; retraining is requested),
`fraud concept-drift`, and the alerts AmountOffTraining and FraudRatioOffBaseline by the hour. Results are kept below
build/bench/drift_bank/ by simulation and parameters, so that a long bank can run in parts. The table and
build/bench/drift_bank.json contain all of them.
"""

import argparse
import datetime as dt
import json
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

sys.path.insert(0, str(Path(__file__).parent))

import alert_false_alarms

from fraud import declaration_file
from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.core.plan import Plan as FeaturePlan
from fraud.features.engines.arrow_vector import vectors
from fraud.features.engines.arrow_windows import window_values, with_features
from fraud.monitoring.drift import PREDICTION, Columns, _columns
from fraud.monitoring.drift_inputs import compared as compared_inputs
from fraud.params import Params
from fraud.simulator.deliveries import LABEL_MEDIAN_DAYS, LABEL_SIGMA, Plan, deliveries
from fraud.stats.e_detector import HOLD_DAYS, evidence, promised, shares
from fraud.stats.psi import MIN_ROWS, column_drift

ROOT: Final = Path(__file__).parents[2]
DECLARATION: Final = declaration_file.load(ROOT / "tests/declarations/three.yaml")
PLAN: Final = FeaturePlan(DECLARATION)
INPUTS: Final = compared_inputs(PLAN)
FEATURES: Final = tuple(one.name for one in INPUTS)
PARAMS: Final = Params.load(ROOT / "params.yaml")
START: Final = dt.date(2025, 1, 1)
TRAIN, HOLDOUT, SCORED, INJECTED, DAYS = 30, 83, 97, 125, 185
"""Numbers of days: training until a week before the holdout, the holdout until scoring, drift from INJECTED on."""
MATURITY: Final = PARAMS.labels.maturity_days
LOOKED_AT: Final = 21
CAPACITY: Final = PARAMS.costs.alerts_per_1000 / 1000


class World(NamedTuple):
    """Transactions sorted by event time, when each was reported as fraud (day number, far away: never), day numbers."""

    table: pa.Table
    reported: np.ndarray
    day: np.ndarray


def simulate(seed: int, users: int, *, fraud_changes: bool = False) -> World:
    changes_on = INJECTED if fraud_changes else None
    plan = Plan(START, DAYS, users, seed, 0.0075, 0.0, DECLARATION.columns, concept_drift_from=changes_on)
    found = list(deliveries(plan))
    table = pa.concat_tables([each.transactions for each in found])
    table = table.sort_by([(name, "ascending") for name in ("event_timestamp", "created_timestamp", "transaction_id")])
    labels = pa.concat_tables([each.labels for each in found])
    at = dict(zip(labels["transaction_id"].to_pylist(), _day(labels["label_timestamp"]), strict=True))
    fraud = set(pc.filter(labels["transaction_id"], labels["is_fraud"]).to_pylist())
    ids = table["transaction_id"].to_pylist()
    reported = np.array([at[name] if name in fraud else 10**6 for name in ids])
    return World(table, reported, _day(table["event_timestamp"]))


def _day(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.int64()).to_numpy() // US_PER_DAY - (START - dt.date(1970, 1, 1)).days


def amounts(factor: Callable[[np.ndarray], np.ndarray]) -> Callable[[World, int], World]:
    """Multiply amounts by a function of the days since INJECTED."""

    def inject(world: World, _seed: int) -> World:
        since = world.day - INJECTED
        scaled = world.table["amount"].to_numpy() * np.where(since >= 0, factor(since), 1.0)
        at = world.table.column_names.index("amount")
        return world._replace(table=world.table.set_column(at, "amount", pa.array(np.round(scaled, 2))))

    return inject


def category_mix(share: float) -> Callable[[World, int], World]:
    """Move a share of the transactions to travel and electronics."""

    def inject(world: World, seed: int) -> World:
        rng = np.random.default_rng(seed)
        n = world.table.num_rows
        moved = (rng.random(n) < share) & (world.day >= INJECTED)
        new = np.where(rng.random(n) < 0.5, "travel", "electronics")
        kinds = np.where(moved, new, world.table["merchant_category"].to_numpy(zero_copy_only=False))
        at = world.table.column_names.index("merchant_category")
        return world._replace(table=world.table.set_column(at, "merchant_category", pa.array(kinds.astype(object))))

    return inject


def velocity_attack(share: float, payments: int = 10) -> Callable[[World, int], World]:
    """Each day, add small transactions within an hour to the cards of a share of the users."""

    def inject(world: World, seed: int) -> World:
        rng = np.random.default_rng(seed)
        users = np.unique(world.table["user_id"].to_numpy(zero_copy_only=False))
        rows, reported = [], []
        for day in range(INJECTED, DAYS):
            for user in rng.choice(users, round(share * len(users)), replace=False):
                starts = rng.uniform(0, 22 * US_PER_HOUR)
                for n in range(payments):
                    at = int((day + (START - dt.date(1970, 1, 1)).days) * US_PER_DAY + starts)
                    at += int(rng.uniform(0, US_PER_HOUR))
                    rows.append({
                        "transaction_id": f"attack-{day}-{user}-{n}", "event_timestamp": at,
                        "created_timestamp": at + 2_000_000, "user_id": user, "merchant_id": f"m{rng.integers(50):05d}",
                        "merchant_category": "misc_net", "amount": round(float(rng.uniform(1, 5)), 2),
                    })  # fmt: skip
                    delay = np.exp(rng.normal(np.log(LABEL_MEDIAN_DAYS), LABEL_SIGMA))
                    reported.append(day + int(delay))
        schema = world.table.schema
        new = pa.table([pa.array([row.get(f.name) for row in rows], f.type) for f in schema], schema=schema)
        table = pa.concat_tables([world.table, new]).append_column(
            "reported", pa.array(np.concatenate([world.reported, reported]))
        )
        keys = ("event_timestamp", "created_timestamp", "transaction_id")
        table = table.sort_by([(name, "ascending") for name in keys])
        return World(table.drop_columns("reported"), table["reported"].to_numpy(), _day(table["event_timestamp"]))

    return inject


BANK: Final[dict[str, Callable[[World, int], World]]] = {
    "amounts x 1.5": amounts(lambda since: np.full(len(since), 1.5)),
    "amounts x 1.15": amounts(lambda since: np.full(len(since), 1.15)),
    "40 % to two categories": category_mix(0.4),
    "12 % to two categories": category_mix(0.12),
    "velocity attack on 5 % of the users a day": velocity_attack(0.05),
    "creep: amounts + 1 % a day": amounts(lambda since: 1.01 ** np.maximum(since, 0)),
}
FRAUD_PATTERN: Final = "another pattern of fraud"


class Model:
    """A model fitted on the training days, with the threshold of the alert capacity on the holdout."""

    def __init__(self, world: World) -> None:
        table, x = built(world)
        fraud = world.reported < SCORED
        train = (world.day >= TRAIN) & (world.day < HOLDOUT - 7)
        self._trees = HistGradientBoostingClassifier(
            learning_rate=0.05, max_iter=200, max_leaf_nodes=15, min_samples_leaf=40, max_features=0.5,
            early_stopping=False, random_state=1,
        ).fit(x[train], fraud[train])  # fmt: skip
        held = (world.day >= HOLDOUT) & (world.day < SCORED)
        self.threshold = float(np.quantile(self.probability(x[held]), 1 - CAPACITY))
        self.reference = table.filter(pa.array(train)).append_column(
            PREDICTION, pa.array(self.probability(x[train]), pa.float32())
        )
        self.amount = float(pc.mean(self.reference["amount"]).as_py())
        caught, right = monitored(world, self.probability(x) >= self.threshold, held)
        self.promise = {"recall": promised(caught) or 0.0, "precision": promised(right) or 0.0}

    def probability(self, x: np.ndarray) -> np.ndarray:
        return self._trees.predict_proba(x)[:, 1]


def built(world: World) -> tuple[pa.Table, np.ndarray]:
    table = with_features(world.table, DECLARATION, window_values(world.table, DECLARATION))
    return table, vectors(table, PLAN)


def columns(table: pa.Table) -> Columns:
    return _columns(table, INPUTS)


def monitored(world: World, stopped: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stopped share per victim, correct share per stopped customer; labels of the age that is evaluated."""
    fraud = world.reported <= world.day + MATURITY
    users = world.table["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    groups = users.astype(np.int64) + world.day * (users.max() + 1)
    victims, customers = rows & fraud, rows & stopped
    return shares(groups[victims], stopped[victims]), shares(groups[customers], fraud[customers])


def nightly(world: World, model: Model, last: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Detector -> bool[days]: whether it fires in the night after that day. False before SCORED.

    Also float64[days]: the largest PSI of a feature on that day alone.
    """
    table, x = built(world)
    probability = model.probability(x)
    stopped = probability >= model.threshold
    table = table.append_column(PREDICTION, pa.array(probability, pa.float32()))
    found = {name: np.zeros(DAYS, bool) for name in ("feature", "drift", "retrain", "concept", "amount", "flagged")}
    reference, newest_psi = columns(model.reference), np.zeros(DAYS)
    for day in range(SCORED + 6, last):
        first, end = np.searchsorted(world.day, [day - PARAMS.drift.current_days + 1, day + 1])
        current = columns(table.slice(first, end - first))
        today = slice(*np.searchsorted(world.day, [day, day + 1]))
        newest_psi[day] = max(column_drift(reference[n], current[n][today.start - first :]).worst for n in FEATURES)
        named, drift, retrain = compared(reference, current, newest_psi[day])
        found["feature"][day], found["drift"][day], found["retrain"][day] = named, drift, retrain
        paid = table["amount"].to_numpy()[today]
        found["amount"][day] = len(paid) >= MIN_ROWS and abs(paid.mean() / model.amount - 1) > 0.2
    first, end = np.searchsorted(world.day, [SCORED, last])
    users = world.table["user_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    fraud = world.reported <= world.day + MATURITY
    stakes = []
    for what in ("recall", "precision"):
        days = []
        for day in range(SCORED, last):
            rows = slice(*np.searchsorted(world.day, [day, day + 1]))
            among, hit = (fraud, stopped) if what == "recall" else (stopped, fraud)
            days.append(shares(users[rows][among[rows]], hit[rows][among[rows]]))
        stakes.append(evidence(days, model.promise[what]))
    for n, value in enumerate(np.mean(stakes, axis=0)):
        if SCORED + n + MATURITY < DAYS:
            held = slice(SCORED + n + MATURITY, SCORED + n + MATURITY + HOLD_DAYS)
            found["concept"][held] |= value >= PARAMS.concept.false_alarm_days
    hour = table["event_timestamp"].cast(pa.int64()).to_numpy()[first:end] // US_PER_HOUR
    hour -= ((START - dt.date(1970, 1, 1)).days + SCORED) * 24
    answers, flagged = (np.bincount(h, minlength=(last - SCORED) * 24) for h in (hour, hour[stopped[first:end]]))
    beyond = alert_false_alarms.beyond(answers, flagged, 24, alert_false_alarms.HISTORY_DAYS)
    wait = alert_false_alarms.WAIT_HOURS + 1
    fires = np.convolve(beyond, np.ones(wait))[: len(beyond)] == wait
    found["flagged"][SCORED:last] = fires.reshape(-1, 24).any(axis=1)
    return found, newest_psi


def compared(
    reference: Mapping[str, NDArray[Any]], current: Mapping[str, NDArray[Any]], newest_psi: float
) -> tuple[bool, bool, bool]:
    """As `fraud drift`: whether a feature is reported, the verdict is drift, and retraining is requested."""
    bounds = PARAMS.drift
    drifted = [column_drift(reference[n], current[n]).worst >= bounds.psi_threshold for n in (*FEATURES, PREDICTION)]
    jumped = newest_psi >= bounds.newest_day_psi
    retrain = sum(drifted[:-1]) / len(FEATURES) > bounds.max_drifted_share
    return any(drifted[:-1]) or jumped, retrain or drifted[-1] or jumped, retrain


DETECTORS: Final = {
    "feature": "a feature is named", "drift": "DriftFound", "retrain": "retraining", "concept": "ConceptDriftFound",
    "amount": "AmountOffTraining", "flagged": "FraudRatioOffBaseline",
}  # fmt: skip
ALERTS: Final = ("drift", "concept", "amount", "flagged")


def onsets(fires: np.ndarray) -> int:
    """How often an alert starts, from INJECTED on."""
    return int((fires[INJECTED:] & ~fires[INJECTED - 1 : -1]).sum())


def first_ring(fires: np.ndarray) -> float | None:
    """The night after INJECTED of the first alert, from 1; None: not within LOOKED_AT."""
    within = fires[INJECTED : INJECTED + LOOKED_AT]
    return float(np.argmax(within)) + 1 if within.any() else None


def measured(seed: int, users: int, *, injected: bool) -> dict[str, Any]:
    """One simulation: alerts on days without a change, and the nights until each detector reports each change."""
    world = simulate(seed, users)
    model = Model(world)
    found, apart_most = nightly(world, model, DAYS)
    fires = {**found, "any": np.any([found[name] for name in ALERTS], axis=0)}
    record: dict[str, Any] = {
        "rows_per_day": world.table.num_rows / DAYS,
        "promise": model.promise,
        "clean": {name: onsets(days) for name, days in fires.items()},
        "newest_day_psi": float(apart_most[INJECTED:].max()),
        "taken": {},
    }
    if injected:
        worlds = {name: inject(world, seed) for name, inject in BANK.items()}
        worlds[FRAUD_PATTERN] = simulate(seed, users, fraud_changes=True)
        for name, drifted in worlds.items():
            found, apart_most = nightly(drifted, model, INJECTED + LOOKED_AT)
            fires = {**found, "any": np.any([found[detector] for detector in ALERTS], axis=0)}
            record["taken"][name] = {detector: first_ring(days) for detector, days in fires.items()}
            record["taken"][name]["newest_day_psi"] = float(apart_most[INJECTED])
    return record


def table_of(records: list[dict[str, Any]]) -> str:
    """The results of all simulations, as a table."""
    days = len(records) * (DAYS - INJECTED)
    detectors = {**DETECTORS, "any": "any alert"}
    lines = [
        f"{len(records)} worlds, {days:,} clean days, {np.mean([r['rows_per_day'] for r in records]):,.0f} rows a day",
        f"largest PSI of a newest day without drift {max(r['newest_day_psi'] for r in records):.3f}",
        f"{'':<44}" + "".join(f"{title:>22}" for title in detectors.values()),
    ]
    alarms = {name: sum(r["clean"][name] for r in records) for name in detectors}
    cells = [f"{100 * count / days:.2f} ({count})" for count in alarms.values()]
    lines.append(f"{'false alarms in 100 clean days (alarms)':<44}" + "".join(f"{cell:>22}" for cell in cells))
    drifted = [r["taken"] for r in records if r["taken"]]
    lines.append(f"nights until found, median of {len(drifted)} worlds (worst); PSI of the first day, least")
    for name in drifted[0] if drifted else ():
        cells = []
        for detector in detectors:
            nights = [result[name][detector] or np.inf for result in drifted]
            cells.append(f"{_night(np.median(nights))} ({_night(max(nights))})")
        least = min(result[name]["newest_day_psi"] for result in drifted)
        lines.append(f"{name:<44}" + "".join(f"{cell:>22}" for cell in cells) + f"{least:>8.3f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3, 4, 5], help="worlds with the whole bank")
    parser.add_argument("--clean", type=int, nargs="*", default=[], help="worlds of which only clean days count")
    parser.add_argument("--users", type=int, default=2_000)
    given = parser.parse_args()
    build = ROOT / "build/bench"
    kept = build / "drift_bank" / f"{given.users}-{PARAMS.fingerprint('drift', 'concept', 'labels', 'costs')[:12]}"
    kept.mkdir(parents=True, exist_ok=True)
    for seed in [*given.seeds, *given.clean]:
        record = measured(seed, given.users, injected=seed in given.seeds)
        (kept / f"{seed}.json").write_text(json.dumps(record, indent=1))
        print(f"seed {seed}: {record['clean']}, newest day {record['newest_day_psi']:.3f}", flush=True)
    records = [json.loads(path.read_text()) for path in sorted(kept.glob("*.json"))]
    print(table_of(records))
    days = len(records) * (DAYS - INJECTED)
    figures = {
        "machine": {"platform": platform.platform(), "users": given.users, "clean_days": days},
        "contenders": {path.stem: record for path, record in zip(sorted(kept.glob("*.json")), records, strict=True)},
        "ratios": {"false_alarms_per_100_days": 100 * sum(r["clean"]["any"] for r in records) / days},
    }
    (build / "drift_bank.json").write_text(json.dumps(figures, indent=1))


def _night(value: float) -> str:
    return f"{value:.0f}" if np.isfinite(value) else "-"


if __name__ == "__main__":
    main()
