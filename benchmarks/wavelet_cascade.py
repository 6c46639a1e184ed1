"""A cascade over wavelets beside one model: bits/dim and what training took.

    score-sde train --config=digits:wavelet_coarse  --workdir=runs/coarse
    score-sde train --config=digits:wavelet_details --workdir=runs/details
    score-sde train --config=digits:vdm             --workdir=runs/single
    score-sde likelihood --workdir=runs/details \
        --config.companions.low_resolution.run=runs/coarse
    score-sde likelihood --workdir=runs/single
    python -m benchmarks.wavelet_cascade digits runs/coarse runs/details runs/single

with --config.train.num_steps of each. Read are the reports of the two likelihoods, and
from the logs of training the operations of all steps, which other programs on the
machine don't change. The same examples are scored, so that the error of a difference
is far below those of both numbers. A row is added to the JSON file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record

NUMBERS = ("bits_per_dim", "standard_error", "bound", "bound_standard_error")


def trained(run: Path) -> dict[str, Any]:
    """Steps and operations of a run's training."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    timed = [line for line in lines if "seconds_per_step" in line]
    steps = max(line["step"] for line in lines)
    each = timed[-1]["tflops_per_second"] * timed[-1]["seconds_per_step"]
    return {"steps": steps, "tflop": round(each * steps, 2)}


def held_out(run: Path, split: str = "test") -> dict[str, float]:
    """Bits/dim of held-out examples by flow and bound, and the evaluations."""
    found = json.loads((run / "likelihood.json").read_text())["splits"][split]
    kept = {name: round(found[name], 4) for name in NUMBERS}
    return kept | {"evaluations": round(found["evaluations"])}


def difference(cascade: Path, single: Path) -> dict[str, list[float]]:
    """Bits/dim of the cascade less those of one model, of the same examples.

    Returns: the mean and its standard error, of the flow and of the bound.
    """
    found = {}
    with (
        np.load(cascade / "likelihood.npz") as first,
        np.load(single / "likelihood.npz") as second,
    ):
        for name in ("bits_per_dim", "bound"):
            gaps = first[f"test_{name}"] - second[f"test_{name}"]
            error = gaps.std(ddof=1) / np.sqrt(len(gaps))
            found[name] = [round(float(v), 4) for v in (gaps.mean(), error)]
    return found


def measured(coarse: Path, details: Path, single: Path) -> dict[str, Any]:
    """Training and bits/dim of both stages, of their sum and of one model."""
    return {
        "coarse": trained(coarse) | held_out(details, "test_stage0"),
        "details": trained(details) | held_out(details, "test_stage1"),
        "cascade": held_out(details),
        "single": trained(single) | held_out(single),
        "difference": difference(details, single),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    for name in ("coarse", "details", "single"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    if given.json and given.json.exists():
        rows = json.loads(given.json.read_text())["rows"]
    row = {"data": given.data} | measured(given.coarse, given.details, given.single)
    print(json.dumps(row, indent=1))
    command = "python -m benchmarks.wavelet_cascade DATA runs/coarse runs/details ..."
    result = record.circumstances("flax") | {"command": command}
    record.write(given.json, result | {"rows": [*rows, row]})


if __name__ == "__main__":
    main()
