"""Draw samples of a trained model: score-sde sample --workdir=DIR."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from . import launch


def main(command: launch.Command) -> None:
    """Write samples.png, samples.npz, and samples.json on how they were made."""
    from score_sde.run.describe import opened

    run = opened(command)
    if run is not None:
        drawn(run, command.workdir)


def drawn(run: Any, workdir: Path) -> dict[str, Any]:
    """Draw the samples of an opened run, or read those that it drew before.

    Returns:
        The arrays of samples.npz: the samples in the user's units.
    """
    import shutil

    import numpy as np

    from score_sde.evaluation.plots import save_samples
    from score_sde.run.cascade import draw_stages
    from score_sde.run.provenance import circumstances, digest_of, is_done, made_by
    from score_sde.runtime.folder import save_arrays, write_json
    from score_sde.runtime.jobs import parts_folder
    from score_sde.runtime.mesh import is_main_host, local_mesh

    experiment = run.experiment
    causes = made_by("samples", run)
    picture, report = (workdir / f"samples.{end}" for end in ("png", "json"))
    word = digest_of(causes)
    if is_done(report, causes) and (workdir / "samples.npz").exists():
        with np.load(workdir / "samples.npz") as file:
            before = dict(file)
        if str(before.pop("made_by", "")) == word:
            print(f"{picture}: made before, from step {run.step:,}")
            return before
    start = time.monotonic()
    parts = parts_folder(workdir / "samples_parts", causes)
    arrays: dict[str, Any]
    arrays, costs = draw_stages(run, parts, local_mesh())
    seconds = time.monotonic() - start
    samples = experiment.shown.to_units(arrays.pop("levels"))
    arrays = {"samples": samples, **arrays}
    levels, good = arrays["samples"], arrays["success"]
    fewest, most = costs[-1].network_evals_per_eval
    num_evals, failed = costs[-1].num_evals, int((~good).sum())
    if is_main_host():
        stored = {**arrays, "made_by": np.asarray(word)}
        save_arrays(workdir / "samples.npz", stored, compress=True)
        shown = levels[good][:144]
        save_samples(picture, shown, num_levels=experiment.shown.num_levels)
        made = {
            "num_evals": num_evals,
            "network_evals_per_eval": [fewest, most],
            "failed": failed,
            "seconds": round(seconds, 1),
            "stages": [cost._asdict() for cost in costs],
        }
        write_json(report, {"made_by": causes, "made": circumstances(), **made})
        shutil.rmtree(parts)
    print(
        f"{picture}: {len(levels):,} samples of {run.config['sampler']['name']}, "
        f"{num_evals:.0f} evaluations each, {seconds:.1f} s"
        + (f", guided: {fewest} to {most} of the network each time" * (most > 1))
        + (f", {failed} FAILED and left out" if failed else "")
    )
    if len(costs) > 1:
        for number, cost in enumerate(costs):
            print(
                f"  stage {number}: {cost.num_evals:.0f} evaluations, "
                f"{cost.gflop:.3g} GFLOP a sample, {cost.seconds:.1f} s"
            )
    return arrays


if __name__ == "__main__":
    launch.run(main, __doc__ or "")
