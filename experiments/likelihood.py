"""Score held-out data in bits/dim: python -m experiments.likelihood --workdir=DIR."""

from __future__ import annotations

from typing import Any

from . import launch


def main(command: launch.Command) -> None:
    """Write likelihood.npz, per example, likelihood.json and plots; print the table."""
    import json
    import shutil

    import numpy as np

    from score_sde.evaluation.plots import save_bound
    from score_sde.evaluation.report import bound_by_level, table
    from score_sde.run.describe import opened
    from score_sde.run.open import LIKELIHOOD
    from score_sde.run.provenance import circumstances, digest_of, is_done, made_by
    from score_sde.run.score import compile_programs, num_examples, score_split
    from score_sde.runtime.folder import save_arrays, write_json
    from score_sde.runtime.jobs import parts_folder
    from score_sde.runtime.mesh import is_main_host, local_mesh

    run = opened(command, needs=LIKELIHOOD)
    if run is None:
        return
    experiment, mesh = run.experiment, local_mesh()
    counts = num_examples(experiment)
    causes = made_by("likelihood", run)
    report = command.workdir / "likelihood.json"
    if is_done(report, causes):
        print(table(json.loads(report.read_text())["splits"]))
        return
    parts = parts_folder(command.workdir / "likelihood_parts", causes)
    programs = compile_programs(experiment, mesh, run.companions.offers)
    arrays: dict[str, Any] = {}
    rows = {}
    for split, count in counts.items():
        scores, rows[split] = score_split(
            experiment, programs, run.params, split, count, mesh, parts
        )
        arrays |= {f"{split}_{name}": a for name, a in scores.items()}
        if split == "test":
            num_dims = int(np.prod(experiment.scored.shape))
            levels = bound_by_level(scores, num_dims)
    if is_main_host():
        arrays["made_by"] = np.asarray(digest_of(causes))
        save_arrays(command.workdir / "likelihood.npz", arrays, compress=True)
        save_bound(command.workdir, levels)
        write_json(report, {"made_by": causes, "made": circumstances(), "splits": rows})
        shutil.rmtree(parts)
    print(table(rows))


if __name__ == "__main__":
    launch.run(main, __doc__ or "")
