"""Averages of other lengths: score-sde reconstruct-ema --workdir=DIR.

    score-sde reconstruct-ema --workdir=DIR --std=0.05,0.10

For a run that was trained with --config.train.power_ema_stds=(0.05,0.1). Each width,
the standard deviation of the average's weights over the length of training, becomes a
run of its own, DIR/ema_0.05 and so on, to be sampled and scored.
"""

from __future__ import annotations

from . import launch

OPTIONS = {"std": "widths of averages, 0.05,0.10"}


def main(command: launch.Command) -> None:
    """Write a run for each width, whole or not at all."""
    import jax
    import jax.numpy as jnp

    from score_sde.run import companions
    from score_sde.run.build import build
    from score_sde.run.same_run import describe, inputs_of
    from score_sde.run.train import initial_params
    from score_sde.runtime.folder import new_run
    from score_sde.training.checkpoints import Checkpoints
    from score_sde.training.optimizer import make_optimizer
    from score_sde.training.post_hoc_ema import reconstruct
    from score_sde.training.step import init_state
    from score_sde.types import UserError

    words = command.options["std"].split(",")
    try:
        stds = {word.strip(): float(word) for word in words}
    except ValueError:
        raise UserError(f"--std is {command.options['std']!r}; give numbers.") from None
    experiment = build(command.config)
    others = companions.expected(experiment).params
    like = jax.eval_shape(lambda: initial_params(experiment, others))
    train = experiment.train
    optimizer = make_optimizer(experiment.optimizer, num_steps=train.num_steps)
    for word, std in stds.items():
        workdir = command.workdir / f"ema_{word}"
        step, params = reconstruct(command.workdir / "averages", std, like)
        # Not to be trained on from here: an average is not where training was.
        config = command.config | {
            "train": command.config["train"] | {"power_ema_stds": (), "num_steps": step}
        }
        with new_run(workdir) as folder:
            average = {"average": {"relative_width": std, "step": step}}
            describe(folder, config, {**inputs_of(command.workdir), **average})
            with Checkpoints(folder / "checkpoints") as checkpoints:
                state = init_state(params, optimizer)
                checkpoints.save(state._replace(step=jnp.asarray(step, jnp.int32)))
        print(f"{workdir}: the average of width {std} at step {step:,}")


if __name__ == "__main__":
    launch.run(main, __doc__ or "", options=OPTIONS)
