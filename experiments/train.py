"""Train a score model: python -m experiments.train --config=FILE --workdir=DIR."""

from __future__ import annotations

from functools import partial

from experiments import launch, runs

FLAGS = {"allow_config_change": "go on with a config that changes what the run learns"}


def main(command: launch.Command) -> None:
    """Train from the newest checkpoint, or from the start, to the last step."""
    from score_sde.build import build, complete
    from score_sde.experiment import init_params, project_params
    from score_sde.jobs import make_evaluate, training_batches, training_cost
    from score_sde.objective import batch_loss
    from score_sde.training.compile import compile_train_step, gradient_on
    from score_sde.training.lock import locked
    from score_sde.training.loop import train
    from score_sde.training.mesh import (
        is_main_host,
        make_mesh,
        put_state,
        start_devices,
        wait_for_hosts,
    )
    from score_sde.training.optimizer import make_optimizer
    from score_sde.training.run import describe_run
    from score_sde.training.step import init_state, make_train_step

    experiment = build(command.config)
    if command.dry_run:
        runs.print_dry_run(command.config, experiment)
        return
    experiment.dataset.split("train")  # opened: what is wrong there shows first
    runs.require_frozen(command)
    if command.hosts is not None:
        start_devices(command.hosts)
    with locked(command.workdir):
        if command.hosts is None:
            start_devices()
        if is_main_host():
            describe_run(
                command.workdir,
                command.config,
                complete=complete,
                allow_change=command.options["allow_config_change"],
            )
        wait_for_hosts("described")
        settings, devices = experiment.train, experiment.devices
        mesh = make_mesh(devices)
        optimizer = make_optimizer(experiment.optimizer, num_steps=settings.num_steps)
        train_step = make_train_step(
            gradient_on(devices, mesh, partial(batch_loss, experiment)),
            optimizer,
            seed=experiment.seed,
            ema_halflife_steps=settings.ema_halflife_steps,
            ema_rampup_ratio=settings.ema_rampup_ratio,
            project=partial(project_params, experiment),
            power_ema_stds=settings.power_ema_stds,
        )
        params = init_params(experiment)
        num_averages = len(settings.power_ema_stds)
        state = init_state(params, optimizer, num_power_emas=num_averages)

        train(
            put_state(state, mesh),
            compile_train_step(train_step, state, devices, mesh),
            training_batches(experiment),
            settings=settings,
            mesh=mesh,
            workdir=command.workdir,
            evaluate=make_evaluate(experiment, command.workdir, mesh),
            steps_per_call=devices.steps_per_call,
            flops_per_image=3 * training_cost(experiment, params).flops,
        )


if __name__ == "__main__":
    launch.run(main, __doc__ or "", flags=FLAGS)
