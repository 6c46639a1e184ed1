"""How much a likelihood varies with its probes, by their kind and number.

    python -m benchmarks.probes runs/digits [--json=FILE]

Held-out examples at the same points, scored with fresh probes several times by
`multistep` with a number of steps that is given. Printed is the root of the mean
variance of an example, in bits/dim; an evaluation has as many tangents as probes.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.random as jr
import numpy as np

from benchmarks import record
from score_sde.run.likelihoods import scorer
from score_sde.run.open import Run, open_run
from score_sde.run.sample import sample_keys

KINDS = {"hutchinson": (1, 2, 4, 8), "hierarchical": (2, 4, 8)}


def spread(run: Run, count: int, draws: int) -> float:
    """Standard deviation of an example over probes, in bits/dim."""
    rows = run.dataset.test[np.arange(count)]
    fold = jax.vmap(jr.fold_in, in_axes=(0, None))
    keys = sample_keys(run.experiment.seed, 0, count)
    points, values = fold(keys, 0), rows["values"]
    score = jax.jit(scorer(run.experiment))
    nats = [
        score(run.params, points, fold(keys, 1 + i), values, None, np.float32(1)).nats
        for i in range(draws)
    ]
    variance = np.var(np.stack(nats), axis=0, ddof=1).mean()
    return math.sqrt(variance) / (math.prod(run.dataset.shape) * math.log(2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--num_steps", type=int, default=32)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    config = json.loads((given.workdir / "config.json").read_text())
    rows: list[dict[str, Any]] = []
    for kind, numbers in KINDS.items():
        for number in numbers:
            config["likelihood"] |= {
                "divergence": kind,
                "num_probes": number,
                "solver": "multistep",
                "num_steps": given.num_steps,
            }
            found = spread(open_run(given.workdir, config), given.count, given.draws)
            rows.append({"divergence": kind, "num_probes": number, "std": found})
            print(f"{kind:<14} {number:>2} probes: {found:.4f} bits/dim", flush=True)
    result = record.circumstances("diffrax") | {
        "options": {
            k: v for k, v in vars(given).items() if k not in ("workdir", "json")
        },
        "rows": rows,
    }
    record.write(given.json, result)


if __name__ == "__main__":
    main()
