"""Score held-out data in bits/dim: python -m experiments.likelihood --workdir=DIR."""

from __future__ import annotations

from typing import Any

from . import launch, runs


def main(command: launch.Command) -> None:
    """Write likelihood.npz, per example, likelihood.json and plots; print the table."""
    import json
    import shutil

    import jax
    import numpy as np

    from score_sde.evaluation.plots import save_bound
    from score_sde.evaluation.report import bound_by_level, table
    from score_sde.run.jobs import parts_of
    from score_sde.run.score import compile_programs, num_examples, score_split
    from score_sde.runtime.folder import write_json

    run = runs.open_run(command)
    if run is None:
        return
    experiment, mesh, step, params = run
    counts = num_examples(experiment)
    made_by = runs.fingerprint(command.config, step, "sde", "likelihood")
    report = command.workdir / "likelihood.json"
    if runs.is_done(report, made_by):
        print(table(json.loads(report.read_text())["splits"]))
        return
    parts = parts_of(command.workdir / "likelihood_parts", made_by)
    programs = compile_programs(experiment, mesh)
    arrays: dict[str, Any] = {}
    rows = {}
    for split, count in counts.items():
        scores, rows[split] = score_split(
            experiment, programs, params, split, count, mesh, parts
        )
        arrays |= {f"{split}_{name}": a for name, a in scores.items()}
        if split == "test":
            num_dims = int(np.prod(experiment.dataset.shape))
            levels = bound_by_level(scores, num_dims)
    if jax.process_index() == 0:
        np.savez_compressed(command.workdir / "likelihood.npz", **arrays)
        save_bound(command.workdir, levels)
        write_json(report, made_by | {"splits": rows})
        shutil.rmtree(parts)
    print(table(rows))


if __name__ == "__main__":
    launch.run(main, __doc__ or "")
