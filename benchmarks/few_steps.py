"""Quality of few-step models by the number of steps, beside their teacher.

    python -m benchmarks.few_steps runs/digits runs/direct runs/progressive --json=FILE

The first run is the teacher, sampled by Heun's method and by as few steps of DDIM; the
others are its students. Each jumps from the levels that it knows; a consistency model
is also led back to a lower level by fresh noise. Share sure, counts of classes and
Frechet distance to the training images, in the features of the teacher's config.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import score_sde as ss
from benchmarks import record
from benchmarks.splits import all_rows
from score_sde.evaluation import class_statistics, frechet_distance
from score_sde.flow_map import check_jumps
from score_sde.run.extraction import Extraction, open_features

LEVELS = {1: (80.0,), 2: (80.0, 2.5), 3: (80.0, 5.0, 0.5), 4: (80.0, 14.0, 2.5, 0.4)}
"""Where the steps begin, by their number."""


def choices(run: Any, is_teacher: bool) -> list[tuple[str, int, dict[str, Any]]]:
    """(sampler, steps, changes of the config) that suit a run."""
    found = []
    if is_teacher:
        for steps in (3, 5, 9, 18):
            grid = {"name": "karras", "num_steps": steps}
            found.append(("heun", steps, {"sampler": {"name": "heun"}, "grid": grid}))
    for sampler in ("jump", "consistency"):
        for steps, sigmas in LEVELS.items():
            grid = {"name": "levels", "sigmas": sigmas}
            try:
                to_zero = sampler == "consistency"
                check_jumps(run.jump, ss.grids.levels(*sigmas), to_zero=to_zero)
            except ValueError:
                continue
            if sampler == "consistency" and (steps == 1 or is_teacher):
                continue  # one step is a jump
            changes = {"sampler": {"name": sampler}, "grid": grid}
            found.append((sampler, steps, changes))
    return found


def row_of(real: np.ndarray, values: np.ndarray, by: Extraction) -> dict[str, Any]:
    """The numbers of some samples."""
    assert by.logits is not None
    frechet = frechet_distance(real, by.features(values))
    classes = class_statistics(by.logits(values))
    return {
        "frechet": frechet.value,
        "interval": [frechet.low, frechet.high],
        "sure": classes.sure.value,
        "sure_interval": [classes.sure.low, classes.sure.high],
        "counts": classes.counts.tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--num_samples", type=int, default=1_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    teacher = ss.open_run(given.runs[0])
    by = open_features(teacher.experiment, teacher.config)
    train = teacher.dataset.train
    real = by.features(all_rows(train)["values"])
    names = " ".join(f"runs/{path.name}" for path in given.runs)
    result = record.circumstances("flax") | {
        "command": f"python -m benchmarks.few_steps {names}",
        "features": by.identity,
    }
    rows: list[dict[str, Any]] = []
    for path in given.runs:
        base = ss.open_run(path)
        for sampler, steps, changes in choices(base, path == given.runs[0]):
            config = {**copy.deepcopy(dict(base.config)), **changes}
            start = time.monotonic()
            drawn = ss.open_run(path, config).sample(given.num_samples)
            row = {
                "run": path.name,
                "sampler": sampler,
                "steps": steps,
                "evals": float(np.mean(np.asarray(drawn.num_evals))),
                **row_of(real, np.asarray(drawn.levels), by),
            }
            rows.append(row)
            seconds = time.monotonic() - start
            print(json.dumps(row), f"({seconds:.0f} s)", flush=True)
            record.write(given.json, result | {"rows": rows})


if __name__ == "__main__":
    main()
