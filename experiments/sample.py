"""Draw samples of a trained model: python -m experiments.sample --workdir=DIR."""

from __future__ import annotations

import time
from typing import Any

from experiments import launch


def main(command: launch.Command) -> None:
    """Write samples.png, samples.npz, and samples.json on how they were made."""
    import numpy as np

    from score_sde.build import build
    from score_sde.evaluation.pictures import save_samples
    from score_sde.jobs import make_draw
    from score_sde.training.mesh import make_mesh, start_devices
    from score_sde.training.run import write_json

    experiment = build(command.config)
    if command.dry_run:
        launch.print_dry_run(command.config, experiment)
        return
    start_devices()
    mesh = make_mesh()
    step, params = launch.restore_ema(command.workdir, experiment, mesh)
    made_by = launch.fingerprint(command.config, step, "sampler", "grid", "sampling")
    picture, report = (command.workdir / f"samples.{end}" for end in ("png", "json"))
    if launch.is_done(report, made_by):
        print(f"{picture}: made before, from step {step:,}")
        return
    start = time.monotonic()
    levels, labels = make_draw(experiment, mesh)(
        params, experiment.sampling.num_samples
    )
    seconds = time.monotonic() - start
    arrays: dict[str, Any] = {"samples": levels} | (
        {} if labels is None else {"labels": labels}
    )
    np.savez_compressed(command.workdir / "samples.npz", **arrays)
    save_samples(picture, levels[:144], num_levels=experiment.dataset.num_levels)
    num_evals = int(experiment.sampler.num_evals(experiment.grid()))
    write_json(report, made_by | {"num_evals": num_evals, "seconds": round(seconds, 1)})
    print(
        f"{picture}: {len(levels):,} samples of {command.config['sampler']['name']}, "
        f"{num_evals} evaluations each, {seconds:.1f} s"
    )


if __name__ == "__main__":
    launch.run(main, __doc__ or "")
