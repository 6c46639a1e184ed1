"""Training and bits/dim of a run on Fashion-MNIST, as one record.

An hour of training on one core, and of scoring on two (fashion_mnist.json):

    taskset -c 0 score-sde train --config=fashion_mnist:vdm --workdir=runs/fashion \
        --config.data.batch_size=32 --config.train.num_steps=6300
    score-sde likelihood --workdir=runs/fashion \
        --config.likelihood.num_train=0 --config.likelihood.bound_draws=4
    python -m benchmarks.fashion_mnist runs/fashion

An older record, fashion_mnist_h100.json, is of a larger network with waves that don't
fit the grey levels, and of fewer images; its command is in it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import score_sde as ss
from benchmarks import record
from score_sde.networks import count_parameters

NUMBERS = (
    *("scored", "bits_per_dim", "standard_error", "errors", "evaluations"),
    *("bound", "bound_standard_error"),
)


def scored(workdir: Path) -> dict[str, Any]:
    """What the report of a run says of its test images."""
    report = json.loads((workdir / "likelihood.json").read_text())
    return {name: report["splits"]["test"][name] for name in NUMBERS}


def trained(workdir: Path) -> dict[str, Any]:
    """What a run says of its training."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    steps = np.diff([0, *(row["step"] for row in rows)])
    pace = np.asarray([row["seconds_per_step"] for row in rows])
    params = ss.open_run(workdir).params["network"]
    return {
        "steps": rows[-1]["step"],
        "batch_size": json.loads((workdir / "config.json").read_text())["data"][
            "batch_size"
        ],
        "seconds_in_steps": round(float(steps @ pace)),
        "parameters": count_parameters(params),
        "test_loss": rows[-1]["test_loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result = record.circumstances("flax") | {
        "trained": trained(given.workdir),
        "scored": scored(given.workdir),
    }
    print(json.dumps(result, indent=1))
    record.write(given.json, result)


if __name__ == "__main__":
    main()
