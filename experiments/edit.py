"""Edit a picture by a trained model: score-sde edit --workdir=DIR ...

--config.editing.task=TASK       image_to_image, inpaint, stroke, colourise,
                                 super_resolve, deblur, jpeg
--config.editing.image=FILE      the picture
--config.editing.mask=FILE       of inpaint and stroke: white where it is drawn anew
--config.restoration.name=NAME   the method, whose options are fields of this section
"""

from __future__ import annotations

from typing import Any

from . import launch


def main(command: launch.Command) -> None:
    """Write edited.png, edited.npz and edited.json.

    The picture shows what is given, the mean of the results and their standard
    deviation, in which white is the largest, and then the results.
    """
    from score_sde.run.build import build
    from score_sde.run.describe import opened
    from score_sde.run.edit import read
    from score_sde.run.open import DENOISER

    given = read(build(command.config))  # the files before any device work
    run = opened(command, needs=DENOISER)
    if run is not None:
        edited(run, given, command.workdir)


def edited(run: Any, given: Any, workdir: Any) -> None:
    """Draw the results of an opened run, unless they are there already."""
    import shutil
    import time

    import jax.numpy as jnp
    import numpy as np

    from score_sde.data import to_levels
    from score_sde.evaluation.plots import save_samples
    from score_sde.run.edit import make_edit
    from score_sde.run.provenance import (
        circumstances,
        digest_of,
        file_digest,
        is_done,
        made_by,
    )
    from score_sde.runtime.folder import save_arrays, write_json
    from score_sde.runtime.jobs import compute_in_parts, parts_folder
    from score_sde.runtime.mesh import is_main_host, local_mesh

    experiment, settings = run.experiment, run.experiment.editing
    files = {"image": settings.image, "mask": settings.mask}
    causes = made_by("edits", run) | {n: file_digest(f) for n, f in files.items()}
    picture, report = (workdir / f"edited.{end}" for end in ("png", "json"))
    if is_done(report, causes) and (workdir / "edited.npz").exists():
        print(f"{picture}: made before, from step {run.step:,}")
        return
    start = time.monotonic()
    size, draw = make_edit(experiment, given, local_mesh(), run.companions.offers)
    parts = parts_folder(workdir / "edited_parts", causes)
    arrays = compute_in_parts(
        parts / "edited",
        count=settings.num_samples,
        size=size,
        compute=lambda first: draw(run.params, first),
    )
    x, num_evals = arrays["edited"], float(arrays["num_evals"].mean())
    mean, std = x.mean(0, keepdims=True), x.std(0, keepdims=True)
    if is_main_host():
        largest = float(std.max())
        spread = 2 * std / (largest or 1.0) - 1
        shown = np.concatenate([given.shown(), mean, spread, x[:61]])
        levels = experiment.shown.num_levels
        save_samples(
            picture,
            np.asarray(to_levels(jnp.asarray(shown), num_levels=levels)),
            num_levels=levels,
        )
        results = {"given": given.y, "edited": x, "mean": mean[0], "std": std[0]}
        results |= {"made_by": np.asarray(digest_of(causes))}
        save_arrays(workdir / "edited.npz", results, compress=True)
        made = {
            "num_evals": num_evals,
            "largest_std": largest,
            "seconds": round(time.monotonic() - start, 1),
        }
        write_json(report, {"made_by": causes, "made": circumstances(), **made})
        shutil.rmtree(parts)
    method = run.config["restoration"]["name"]
    how = "" if given.measurement is None else f" by {method}"
    print(
        f"{picture}: {settings.image}, mean and standard deviation, then {len(x)} "
        f"results of {settings.task}{how}, {num_evals:.0f} evaluations each"
    )


if __name__ == "__main__":
    launch.run(main, __doc__ or "")
