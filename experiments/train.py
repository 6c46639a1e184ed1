"""Train a score model: python -m experiments.train --config=FILE --workdir=DIR."""

from __future__ import annotations

from functools import partial

from experiments import launch


def main(command: launch.Command) -> None:
    """Train from the newest checkpoint, or from the start, to the last step."""
    from score_sde.build import build, complete
    from score_sde.data import batch_at, require_examples
    from score_sde.evaluation.pictures import save_samples
    from score_sde.experiment import init_params, project_params
    from score_sde.jobs import make_draw
    from score_sde.objective import batch_loss
    from score_sde.training.lock import locked
    from score_sde.training.loop import train
    from score_sde.training.mesh import make_mesh, put_state, start_devices
    from score_sde.training.optimizer import make_optimizer
    from score_sde.training.run import describe_run
    from score_sde.training.step import (
        TrainState,
        compile_train_step,
        init_state,
        make_train_step,
    )

    experiment = build(command.config)
    if command.dry_run:
        launch.print_dry_run(command.config, experiment)
        return
    require_examples(experiment.dataset.train)
    launch.require_frozen(command)
    with locked(command.workdir):
        start_devices()
        settings, mesh = experiment.train, make_mesh()
        describe_run(command.workdir, command.config, complete=complete)
        optimizer = make_optimizer(experiment.optimizer, num_steps=settings.num_steps)
        train_step = make_train_step(
            partial(batch_loss, experiment),
            optimizer,
            seed=experiment.seed,
            ema_halflife_steps=settings.ema_halflife_steps,
            ema_rampup_ratio=settings.ema_rampup_ratio,
            project=partial(project_params, experiment),
            power_ema_stds=settings.power_ema_stds,
        )
        _, draw = make_draw(experiment, mesh)

        def show_samples(state: TrainState) -> None:
            levels = draw(state.ema_params, 0)["levels"]
            path = command.workdir / "samples" / f"step_{int(state.step):07d}.png"
            save_samples(path, levels, num_levels=experiment.dataset.num_levels)

        num_averages = len(settings.power_ema_stds)
        state = init_state(
            init_params(experiment), optimizer, num_power_emas=num_averages
        )
        train(
            put_state(state, mesh),
            compile_train_step(train_step, mesh),
            lambda step: batch_at(
                experiment.dataset,
                seed=experiment.seed,
                step=step,
                batch_size=experiment.data.batch_size,
            ),
            settings=settings,
            mesh=mesh,
            workdir=command.workdir,
            show_samples=show_samples,
        )


if __name__ == "__main__":
    launch.run(main, __doc__ or "")
