"""Likelihoods in a few jumps of a student, beside the exact flow of its teacher.

    python -m benchmarks.few_step_likelihood runs/digits runs/few --json=FILE

Every held-out example is scored at the same dequantised point by the teacher's flow and
by 1 to 8 jumps of the student. The differences are in bits/dim, with the standard error
of their mean, which holds the probes of the flow.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

import score_sde as ss
from benchmarks import record

COUNTS = (1, 2, 4, 8)


def scored(run: Any, rows: Any) -> tuple[np.ndarray, float]:
    """(bits/dim of each example, evaluations) of a run."""
    found = run.log_prob(rows)
    assert bool(np.asarray(found.success).all())
    # The log-probabilities are of the levels themselves.
    num_dims = math.prod(run.dataset.shape)
    bits = ss.bits_per_dim(found.nats, num_dims=num_dims, num_levels=None)
    evals = float(np.mean(np.asarray(found.num_evals)))
    return np.asarray(bits, np.float64), evals


def mean_of(values: np.ndarray) -> list[float]:
    """[mean, its standard error]."""
    return [float(a) for a in ss.mean_and_error(values)]


def changed(path: Path, **likelihood: Any) -> Any:
    """A run with other settings of its likelihood."""
    config = copy.deepcopy(dict(ss.open_run(path, needs="likelihood").config))
    config["likelihood"] = {**config["likelihood"], **likelihood}
    return ss.open_run(path, config, needs="likelihood")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("student", type=Path)
    parser.add_argument("--num_probes", type=int, default=4)
    parser.add_argument("--num_examples", type=int, default=360)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    teacher = changed(given.teacher, num_probes=given.num_probes)
    rows = teacher.dataset.test[np.arange(given.num_examples)]
    exact, evals = scored(teacher, rows)
    made: list[dict[str, Any]] = [
        {"evaluations": evals, "bits_per_dim": mean_of(exact)}
    ]
    print(json.dumps(made[0]), flush=True)
    for count in COUNTS:
        found, evals = scored(changed(given.student, num_jumps=count), rows)
        error = found - exact
        row = {
            "evaluations": evals,
            "bits_per_dim": mean_of(found),
            "difference": mean_of(error),
            "root_mean_square": float(np.sqrt((error**2).mean())),
        }
        made.append(row)
        print(json.dumps(row), flush=True)
    result = record.circumstances("flax") | {
        "command": f"python -m benchmarks.few_step_likelihood "
        f"runs/{given.teacher.name} runs/{given.student.name}",
        "examples": given.num_examples,
        "probes": given.num_probes,
        "flow": made[0],
        "jumps": made[1:],
    }
    record.write(given.json, result)


if __name__ == "__main__":
    main()
