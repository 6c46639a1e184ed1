"""Make a run with a control branch of a trained run, which is frozen in it.

    python -m experiments.add_control --config=FILE --from=RUN --workdir=DIR

The config is of a network 'controlled_unet' with the options of the run's U-Net. Then
python -m experiments.train --workdir=DIR trains the branch alone.
"""

from __future__ import annotations

from . import launch, runs

OPTIONS = {"from": "the folder of the trained run"}


def main(command: launch.Command) -> None:
    """Write the config, controls.json and a checkpoint, or nothing at all."""
    from pathlib import Path

    from score_sde.networks import count_parameters
    from score_sde.networks.controlled_unet import BRANCH, controlling
    from score_sde.networks.network import FROZEN_MODULE
    from score_sde.run.build import build
    from score_sde.run.model import init_params
    from score_sde.runtime.folder import describe_run, write_json
    from score_sde.runtime.mesh import start_devices
    from score_sde.training.checkpoints import Checkpoints
    from score_sde.training.optimizer import make_optimizer
    from score_sde.training.step import init_state
    from score_sde.types import UserError

    experiment = build(command.config)
    network = command.config["network"]["name"]
    if network != "controlled_unet":
        raise UserError(f"network.name is {network!r}; it must be 'controlled_unet'.")
    if command.dry_run:
        runs.print_dry_run(command.config, experiment)
        return
    source = Path(command.options["from"])
    start_devices()
    params = init_params(experiment)
    like = params | {"network": params["network"][FROZEN_MODULE]}
    step, trained = runs.restored(source / "checkpoints", like)
    params = trained | {"network": controlling(params["network"], trained["network"])}
    optimizer = make_optimizer(
        experiment.optimizer, num_steps=experiment.train.num_steps
    )
    with runs.new_run(command.workdir) as folder:
        describe_run(folder, command.config)
        write_json(folder / "controls.json", {"run": str(source), "step": step})
        with Checkpoints(folder / "checkpoints") as checkpoints:
            checkpoints.save(init_state(params, optimizer))
    frozen, branch = (
        count_parameters(params["network"][part]) for part in (FROZEN_MODULE, BRANCH)
    )
    print(
        f"{command.workdir}: {source} of step {step:,}, {frozen:,} parameters frozen, "
        f"and a branch of {branch:,}"
    )


if __name__ == "__main__":
    launch.run(main, __doc__ or "", options=OPTIONS)
