"""Comparison of ladder levels with a plain scikit-learn run on the same held-out rows, with paired intervals.

    .venv/ml/bin/fraud train --out /tmp/version                      # FRAUD_HOME holds the imported export
    .venv/ml/bin/python tests/bench/plain_sklearn.py --source EXPORT --train FIRST END --holdout FIRST END \
        --predictions /tmp/plain.parquet
    .venv/ml/bin/python tests/bench/external.py --predictions /tmp/plain.parquet --model /tmp/version/model.onnx

Prints a table and writes build/bench/external.json. Intervals are 95% percentile bootstrap over users, paired: all
models use the same resamples.
"""

import argparse
import json
import platform
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud import declaration_file
from fraud.params import Params
from fraud.scoring.onnx_session import OnnxModel
from fraud.settings import Settings
from fraud.stats.comparison import Compared
from fraud.stats.costs import costs_of
from fraud.training import training_data

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--model", type=Path, nargs="+", required=True, help="ONNX files; the first is the version")
    parser.add_argument("--resamples", type=int, default=1000)
    arguments = parser.parse_args()
    params = Params.load(ROOT / "params.yaml")
    lake, declared = Settings.load().lake_uri, declaration_file.load_of(ROOT)
    data = training_data.load(lake, training_data.partition_of(lake, None, declared), params, declared)
    plain = pq.read_table(arguments.predictions)
    ids = data.table["transaction_id"][data.rows_of(data.split.holdout)]
    at = pc.index_in(pa.array(ids.to_pylist()), value_set=plain["transaction_id"].combine_chunks())
    if at.null_count or plain.num_rows != len(at):
        raise SystemExit(f"{at.null_count} of {len(at)} held-out rows are not among the {plain.num_rows} predictions")
    answers = {path.stem: OnnxModel(path.read_bytes()).probabilities(data.holdout.vectors) for path in arguments.model}
    answers |= {name: plain[name].to_numpy()[at.to_numpy()] for name in plain.column_names if name != "transaction_id"}
    compared = Compared(
        data.holdout, list(answers.values()), costs_of(params), resamplings=arguments.resamples,
        seed=params.training.seed,
    )  # fmt: skip
    contenders = {}
    print(f"{len(at):,} rows held out, {int(np.sum(data.holdout.is_fraud))} frauds")
    print(f"{'model':<32}{'AUC':>7}{'AP':>7}{'95%':>14}{'ours minus it, AP':>26}{'ours minus it, USD/1000':>30}")
    for number, name in enumerate(answers):
        auc, precision = compared.interval(number, "auc"), compared.interval(number, "average_precision")
        gain = compared.gain(0, number, "average_precision")
        money = compared.gain(0, number, "saved_per_1000")
        contenders[name] = {
            "auc": auc.value, "average_precision": list(precision), "ours_minus_it_average_precision": list(gain),
            "ours_minus_it_saved_per_1000": list(money),
        }  # fmt: skip
        print(
            f"{name:<32}{auc.value:>7.3f}{precision.value:>7.3f}  [{precision.low:.3f}, {precision.high:.3f}]"
            f"  {gain.value:>+7.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
            f"  {money.value:>+7.0f} [{money.low:+.0f}, {money.high:+.0f}]"
        )
    target = ROOT / "build/bench/external.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    machine = platform.processor() or platform.machine()
    target.write_text(json.dumps({"machine": machine, "contenders": contenders, "ratios": {}}, indent=1))


if __name__ == "__main__":
    main()
