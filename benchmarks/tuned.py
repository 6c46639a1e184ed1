"""How near samples end to the flow's end, by levels tuned to a run and by fixed grids.

    python -m benchmarks.tuned runs/digits [--evaluations=6,10,18] [--json=FILE]

Root mean square distance of a value, from the same noise, on paths that no level was
tuned on (`score-sde tune-sampler`, whose fixed grids are all that need nothing but
their ends). Of every sampler the best fixed grid and the tuned one, with as many steps
as the evaluations allow. A row for each run is added to the JSON file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import score_sde as ss
from benchmarks import record
from score_sde.run.open import open_run
from score_sde.run.tune import tune
from score_sde.samplers import SAMPLERS

RULES = (
    *("ddim", "heun", "dpmpp_2m", "lms"),
    *("deis", "plms", "unipc", "adams_bashforth"),
)


def most_steps(name: str, evaluations: int) -> int:
    """The most steps of a sampler that cost no more evaluations."""
    sampler = SAMPLERS[name]()

    def cost(steps: int) -> int:
        return int(
            sampler.num_evals(ss.grids.karras(steps, sigma_min=0.01, sigma_max=80.0))
        )

    return max(n for n in range(2, evaluations + 1) if cost(n) <= evaluations)


def measured(workdir: Path, name: str, evaluations: int) -> dict[str, Any]:
    """Distances by the best fixed grid and by the tuned one, of a sampler of a run."""
    config = json.loads((workdir / "config.json").read_text())
    config["sampler"] = {"name": name}
    config["grid"] = {"name": "karras", "num_steps": most_steps(name, evaluations)}
    held_out = tune(open_run(workdir, config)).held_out
    tuned = held_out.pop("tuned")
    fixed = min(held_out, key=lambda grid: held_out[grid])
    return {
        "sampler": name,
        "evaluations": evaluations,
        "fixed": round(held_out[fixed], 5),
        "grid": "karras" if fixed == "the run's" else fixed,
        "tuned": round(tuned, 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--evaluations", default="6,10,18")
    parser.add_argument("--samplers", default=",".join(RULES))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    for evaluations in map(int, given.evaluations.split(",")):
        for name in given.samplers.split(","):
            rows.append(measured(given.workdir, name, evaluations))
            print(json.dumps(rows[-1]), flush=True)
    runs = {}
    if given.json and given.json.exists():
        runs = json.loads(given.json.read_text())["runs"]
    result = record.circumstances("flax", "optax")
    result["command"] = "python -m benchmarks.tuned runs/RUN"
    record.write(given.json, result | {"runs": runs | {given.workdir.name: rows}})


if __name__ == "__main__":
    main()
