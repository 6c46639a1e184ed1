"""Draw samples of a trained model: python -m experiments.sample --workdir=DIR."""

from __future__ import annotations

import time
from typing import Any

from . import launch, runs


def main(command: launch.Command) -> None:
    """Write samples.png, samples.npz, and samples.json on how they were made."""
    import shutil

    import jax
    import numpy as np

    from score_sde.evaluation.plots import save_samples
    from score_sde.run.jobs import in_parts, make_draw, parts_of
    from score_sde.run.model import evals_per_call
    from score_sde.runtime.folder import write_json

    run = runs.open_run(command)
    if run is None:
        return
    experiment, mesh, step, params = run
    made_by = runs.fingerprint(
        command.config,
        step,
        *("sampler", "grid", "guidance", "threshold", "sampling", "classifier"),
    )
    picture, report = (command.workdir / f"samples.{end}" for end in ("png", "json"))
    if runs.is_done(report, made_by):
        print(f"{picture}: made before, from step {step:,}")
        return
    start = time.monotonic()
    size, draw = make_draw(experiment, mesh)
    parts = parts_of(command.workdir / "samples_parts", made_by)
    arrays: dict[str, Any] = in_parts(
        parts / "samples",
        count=experiment.sampling.num_samples,
        size=size,
        compute=lambda first: draw(params, first),
    )
    seconds = time.monotonic() - start
    levels, good = arrays.pop("levels"), arrays["success"]
    fewest, most = evals_per_call(experiment, params)
    num_evals, failed = float(arrays["num_evals"].mean()), int((~good).sum())
    if jax.process_index() == 0:
        samples = command.workdir / "samples.npz"
        np.savez_compressed(samples, samples=levels, **arrays)
        shown = levels[good][:144]
        save_samples(picture, shown, num_levels=experiment.dataset.num_levels)
        made = {
            "num_evals": num_evals,
            "network_evals_per_eval": [fewest, most],
            "failed": failed,
            "seconds": round(seconds, 1),
        }
        write_json(report, made_by | made)
        shutil.rmtree(parts)
    print(
        f"{picture}: {len(levels):,} samples of {command.config['sampler']['name']}, "
        f"{num_evals:.0f} evaluations each, {seconds:.1f} s"
        + (f", guided: {fewest} to {most} of the network each time" * (most > 1))
        + (f", {failed} FAILED and left out" if failed else "")
    )


if __name__ == "__main__":
    launch.run(main, __doc__ or "")
