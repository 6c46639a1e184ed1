"""Edit a picture by a trained model: python -m experiments.edit --workdir=DIR ...

--config.editing.task=TASK     image_to_image, inpaint, colourise, super_resolve, deblur
--config.editing.image=FILE    the picture
--config.editing.mask=FILE     of inpaint: white where the image is drawn anew
"""

from __future__ import annotations

from . import launch


def main(command: launch.Command) -> None:
    """Write edited.png, what is given and then the results, edited.npz, edited.json."""
    import jax.numpy as jnp
    import numpy as np

    from score_sde.data import to_levels
    from score_sde.evaluation.plots import save_samples
    from score_sde.run.build import build
    from score_sde.run.describe import opened
    from score_sde.run.edit import edit, read
    from score_sde.run.provenance import circumstances, digest_of, file_digest, made_by
    from score_sde.runtime.folder import save_arrays, write_json

    given = read(build(command.config))  # the files before any device work
    run = opened(command, needs_denoiser=True)
    if run is None:
        return
    experiment = run.experiment
    x = edit(experiment, given, run.params, run.companions.offers)
    shown = np.concatenate([given.shown(), x])
    picture = command.workdir / "edited.png"
    levels = experiment.model.num_levels
    save_samples(
        picture,
        np.asarray(to_levels(jnp.asarray(shown), num_levels=levels)),
        num_levels=levels,
    )
    settings = experiment.editing
    files = {"image": settings.image, "mask": settings.mask}
    causes = made_by("edits", run) | {n: file_digest(f) for n, f in files.items()}
    arrays = {"given": given.y, "edited": x, "made_by": np.asarray(digest_of(causes))}
    save_arrays(command.workdir / "edited.npz", arrays, compress=True)
    made = {"made_by": causes, "made": circumstances()}
    write_json(command.workdir / "edited.json", made)
    print(f"{picture}: {settings.image}, then {len(x)} results of {settings.task}")


if __name__ == "__main__":
    launch.run(main, __doc__ or "")
