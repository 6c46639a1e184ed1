"""Score held-out data in bits/dim: score-sde likelihood --workdir=DIR."""

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
    from score_sde.run.cascade import in_all_stages, scored_stages
    from score_sde.run.describe import opened
    from score_sde.run.open import LIKELIHOOD
    from score_sde.run.provenance import circumstances, digest_of, is_done, made_by
    from score_sde.run.score import (
        compile_programs,
        num_examples,
        pass_over,
        score_split,
    )
    from score_sde.runtime.folder import save_arrays, write_json
    from score_sde.runtime.jobs import parts_folder
    from score_sde.runtime.mesh import is_main_host, local_mesh

    run = opened(command, needs=LIKELIHOOD)
    if run is None:
        return
    experiment, mesh = run.experiment, local_mesh()
    stages, counts = scored_stages(run), num_examples(experiment)
    causes = made_by("likelihood", run)
    report = command.workdir / "likelihood.json"
    if is_done(report, causes):
        print(table(json.loads(report.read_text())["splits"]))
        return
    parts = parts_folder(command.workdir / "likelihood_parts", causes)
    programs = [
        compile_programs(stage, mesh, of_stage.companions.offers)
        for stage, of_stage in zip(stages, run.stages, strict=True)
    ]
    arrays: dict[str, Any] = {}
    rows = {}
    for split, count in counts.items():
        found = []
        for number, stage in enumerate(stages):
            is_last = number == len(stages) - 1
            place = parts if is_last else parts / f"stage{number}"
            params = run.stages[number].params
            found.append(
                pass_over(stage, programs[number], params, split, count, mesh, place)
            )
            scores, row = score_split(stage, found[-1])
            name = f"{split}_stage{number}" if len(stages) > 1 else split
            rows[name] = row
            arrays |= {f"{name}_{field}": a for field, a in scores.items()}
            if split == "test" and is_last:
                levels = bound_by_level(scores, found[-1].num_dims)
        if len(stages) > 1:
            num_dims = int(np.prod(experiment.dataset.stored.shape))
            total = in_all_stages(found, num_dims)
            scores, rows[split] = score_split(experiment, total)
            rows[split]["of"] = "cascade"
            arrays |= {f"{split}_{field}": a for field, a in scores.items()}
    if is_main_host():
        arrays["made_by"] = np.asarray(digest_of(causes))
        save_arrays(command.workdir / "likelihood.npz", arrays, compress=True)
        save_bound(command.workdir, levels)
        write_json(report, {"made_by": causes, "made": circumstances(), "splits": rows})
        shutil.rmtree(parts)
    print(table(rows))


if __name__ == "__main__":
    launch.run(main, __doc__ or "")
