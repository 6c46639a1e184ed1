"""Train a model: score-sde train --config=NAME --workdir=DIR."""

from __future__ import annotations

from functools import partial

from . import launch

FLAGS = {"allow_config_change": "go on with a config that changes what the run learns"}


def main(command: launch.Command) -> None:
    """Train from the newest checkpoint, or from the start, to the last step."""
    from score_sde.data.identity import identity
    from score_sde.run import companions
    from score_sde.run.build import build, check_grid
    from score_sde.run.describe import print_dry_run
    from score_sde.run.in_training import make_evaluate
    from score_sde.run.model import project_params
    from score_sde.run.provenance import digest_of
    from score_sde.run.same_run import check_same, describe
    from score_sde.run.settings import resolved
    from score_sde.run.train import (
        initial_params,
        make_loss,
        scale_note,
        training_batches,
        training_cost,
        with_prepared,
    )
    from score_sde.run.waves import waves_note
    from score_sde.runtime.lock import writing
    from score_sde.runtime.mesh import (
        is_main_host,
        make_mesh,
        require_alike,
        wait_for_hosts,
    )
    from score_sde.training.compile import prepare_training
    from score_sde.training.loop import train

    experiment = build(command.config)
    config = resolved(command.config, experiment.dataset, experiment.model.sigma_data)
    if command.dry_run:
        print_dry_run(config, experiment)
        return
    experiment.dataset.split("train")  # opened: what is wrong there shows first
    if note := scale_note(experiment):
        print(note)
    with writing(command.workdir, command.hosts):
        check_grid(experiment)
        waves = config["network"].get("input_frequencies", ())
        if note := waves_note(experiment, waves):
            print(note)
        loaded = companions.load(experiment, experiment.training_roles)
        inputs = {
            "data": identity(experiment.dataset),
            "companions": {
                role: {k: v for k, v in made_by.items() if k != "run"}
                for role, made_by in loaded.made_by.items()
            },
        }
        require_alike("configs or data", digest_of({"config": config, **inputs}))
        table = check_same(
            command.workdir,
            config,
            experiment,
            inputs,
            allow_change=command.options["allow_config_change"],
        )

        def restored() -> None:
            """Replace the description of the run last, when nothing can fail it."""
            if is_main_host():
                if table:
                    print("the config is another from here on:\n" + table)
                describe(command.workdir, config, inputs)
            wait_for_hosts("described")

        devices = experiment.devices
        mesh = make_mesh(devices, batch_size=experiment.data.batch_size)
        loss = make_loss(experiment, loaded.offers)
        scored = experiment._replace(objective=experiment.objective.scored())
        params = initial_params(experiment, loaded.params)
        used = with_prepared(experiment, params, loaded.params, loaded.offers)
        train_step, state = prepare_training(
            loss,
            params,
            experiment.optimizer,
            experiment.train,
            devices,
            mesh,
            seed=experiment.seed,
            project=partial(project_params, experiment.model),
            companions=used,
            target_decay=experiment.objective.target_decay(experiment.train.num_steps),
            groups=experiment.objective.optimizers(experiment.optimizer),
        )
        cost = training_cost(experiment, params, used, loaded.offers)
        train(
            state,
            train_step,
            training_batches(experiment),
            settings=experiment.train,
            mesh=mesh,
            workdir=command.workdir,
            evaluate=make_evaluate(
                experiment,
                config,
                command.workdir,
                mesh,
                make_loss(scored, loaded.offers),
                used,
            ),
            steps_per_call=devices.steps_per_call,
            flops_per_image=3 * cost.flops,
            restored=restored,
        )


if __name__ == "__main__":
    launch.run(main, __doc__ or "", flags=FLAGS)
