"""Draw samples of a trained model: python -m experiments.sample --workdir=DIR."""

from __future__ import annotations

import time
from typing import Any

from . import launch


def main(command: launch.Command) -> None:
    """Write samples.png, samples.npz, and samples.json on how they were made."""
    import shutil

    from score_sde.evaluation.plots import save_samples
    from score_sde.run.describe import opened
    from score_sde.run.provenance import is_done, made_by
    from score_sde.run.sample import evals_per_call, make_draw
    from score_sde.runtime.folder import write_json
    from score_sde.runtime.jobs import compute_in_parts, parts_folder, save_arrays
    from score_sde.runtime.mesh import is_main_host, local_mesh

    run = opened(command)
    if run is None:
        return
    experiment, offers = run.experiment, run.companions.offers
    causes = made_by("samples", run)
    picture, report = (command.workdir / f"samples.{end}" for end in ("png", "json"))
    if is_done(report, causes):
        print(f"{picture}: made before, from step {run.step:,}")
        return
    start = time.monotonic()
    size, draw = make_draw(experiment, local_mesh(), offers)
    parts = parts_folder(command.workdir / "samples_parts", causes)
    arrays: dict[str, Any] = compute_in_parts(
        parts / "samples",
        count=experiment.sampling.num_samples,
        size=size,
        compute=lambda first: draw(run.params, first),
    )
    seconds = time.monotonic() - start
    levels, good = arrays.pop("levels"), arrays["success"]
    fewest, most = evals_per_call(
        experiment.model, experiment.drawing, run.params, offers
    )
    num_evals, failed = float(arrays["num_evals"].mean()), int((~good).sum())
    if is_main_host():
        arrays = {"samples": levels, **arrays}
        save_arrays(command.workdir / "samples.npz", arrays, compress=True)
        shown = levels[good][:144]
        save_samples(picture, shown, num_levels=experiment.model.num_levels)
        made = {
            "num_evals": num_evals,
            "network_evals_per_eval": [fewest, most],
            "failed": failed,
            "seconds": round(seconds, 1),
        }
        write_json(report, causes | made)
        shutil.rmtree(parts)
    print(
        f"{picture}: {len(levels):,} samples of {run.config['sampler']['name']}, "
        f"{num_evals:.0f} evaluations each, {seconds:.1f} s"
        + (f", guided: {fewest} to {most} of the network each time" * (most > 1))
        + (f", {failed} FAILED and left out" if failed else "")
    )


if __name__ == "__main__":
    launch.run(main, __doc__ or "")
