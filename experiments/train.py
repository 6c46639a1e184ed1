"""Train a score model: python -m experiments.train --config=FILE --workdir=DIR."""

from __future__ import annotations

from functools import partial

from . import launch, runs

FLAGS = {"allow_config_change": "go on with a config that changes what the run learns"}


def main(command: launch.Command) -> None:
    """Train from the newest checkpoint, or from the start, to the last step."""
    from score_sde.run.build import build, complete
    from score_sde.run.jobs import make_evaluate, training_batches, training_cost
    from score_sde.run.model import init_params, project_params
    from score_sde.run.objective import batch_loss
    from score_sde.runtime.folder import describe_run
    from score_sde.runtime.mesh import is_main_host, make_mesh, wait_for_hosts
    from score_sde.training.compile import prepare_training
    from score_sde.training.loop import train

    experiment = build(command.config)
    if command.dry_run:
        runs.print_dry_run(command.config, experiment)
        return
    experiment.dataset.split("train")  # opened: what is wrong there shows first
    runs.require_frozen(command)
    with runs.writing(command.workdir, command.hosts):
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
        params = init_params(experiment)
        train_step, state = prepare_training(
            partial(batch_loss, experiment),
            params,
            experiment.optimizer,
            settings,
            devices,
            mesh,
            seed=experiment.seed,
            project=partial(project_params, experiment),
        )
        train(
            state,
            train_step,
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
