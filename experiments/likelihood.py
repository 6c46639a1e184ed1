"""Score held-out data in bits/dim: python -m experiments.likelihood --workdir=DIR."""

from __future__ import annotations

import time
from typing import Any

from experiments import launch


def main(command: launch.Command) -> None:
    """Write likelihood.npz, per example, and likelihood.json, and print the table."""
    import json

    import numpy as np

    from score_sde.build import build
    from score_sde.training.mesh import make_mesh, start_devices
    from score_sde.training.run import write_json

    experiment = build(command.config)
    if command.dry_run:
        launch.print_dry_run(command.config, experiment)
        return
    start_devices()
    mesh = make_mesh()
    step, params = launch.restore_ema(command.workdir, experiment, mesh)
    made_by = launch.fingerprint(command.config, step, "sde", "likelihood")
    report = command.workdir / "likelihood.json"
    if launch.is_done(report, made_by):
        table = json.loads(report.read_text())["splits"]
    else:
        arrays: dict[str, Any] = {}
        table = {}
        for split, count in (
            ("test", len(experiment.dataset.test)),
            ("train", experiment.likelihood.num_train),
        ):
            if count:
                scores, table[split] = score_split(
                    experiment, params, split, count, mesh
                )
                arrays |= {f"{split}_{name}": a for name, a in scores.items()}
        np.savez_compressed(command.workdir / "likelihood.npz", **arrays)
        write_json(report, made_by | {"splits": table})
    for split, row in table.items():
        print(
            f"{split:>5}: {row['bits_per_dim']:.4f} +- {row['standard_error']:.4f} "
            f"bits/dim, {row['scored']} examples, {row['evaluations']:.0f} evaluations "
            f"each, {row['seconds']:.0f} s"
            + (f", {row['failed']} FAILED and left out" if row["failed"] else "")
        )


def score_split(
    experiment: Any, params: Any, split: str, count: int, mesh: Any
) -> tuple[dict[str, Any], dict[str, float]]:
    """(per-example arrays, their summary) of the first `count` examples of a split."""
    import numpy as np

    from score_sde.jobs import score_all
    from score_sde.likelihood import bits_per_dim, mean_and_error

    start = time.monotonic()
    values, labels = experiment.dataset.split(split)
    labels = None if labels is None else labels[:count]
    parts = list(score_all(experiment, params, values[:count], labels, mesh))
    scores = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    scores["bits_per_dim"] = np.asarray(
        bits_per_dim(
            scores["nats"],
            int(np.prod(experiment.dataset.shape)),
            num_levels=experiment.dataset.num_levels,
        )
    )
    good = scores["success"]
    mean, error = mean_and_error(scores["bits_per_dim"][good])
    return scores, {
        "bits_per_dim": float(mean),
        "standard_error": float(error),
        "scored": int(good.sum()),
        "failed": int((~good).sum()),
        "evaluations": float(scores["num_evals"].mean()),
        "seconds": round(time.monotonic() - start, 1),
    }


if __name__ == "__main__":
    launch.run(main, __doc__ or "")
