"""Train the classifier that guides a run: python -m experiments.train_classifier ...

Of noisy data, by the section `classifier` of the config; the run's folder keeps it.
Then --config.guidance.name=classifier draws samples that it guides.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from . import launch, runs


def main(command: launch.Command) -> None:
    """Train from the newest checkpoint, or from the start, to the last step."""
    import jax

    from score_sde.run.build import build
    from score_sde.run.jobs import training_batches
    from score_sde.run.model import classifier_network
    from score_sde.run.objective import classifier_loss
    from score_sde.runtime.folder import write_json
    from score_sde.runtime.mesh import Devices, is_main_host, make_mesh
    from score_sde.training.compile import prepare_training
    from score_sde.training.loop import Training, train
    from score_sde.training.optimizer import Optimizer
    from score_sde.types import UserError

    experiment = build(command.config)
    if not experiment.dataset.num_classes:
        raise UserError(f"{experiment.dataset.name} has no classes to tell apart.")
    if command.dry_run:
        print_dry_run(command.config, experiment)
        return
    folder = command.workdir / "classifier"
    chosen, devices = experiment.classifier, Devices()
    with runs.writing(folder, command.hosts):
        mesh = make_mesh(devices)
        settings = Training(chosen.num_steps, checkpoint_every=chosen.num_steps)
        optimizer = Optimizer(
            learning_rate=chosen.learning_rate, schedule="cosine", weight_decay=0.01
        )
        if is_main_host():
            write_json(folder / "config.json", command.config["classifier"])
        train_step, state = prepare_training(
            partial(classifier_loss, experiment),
            classifier_network(experiment).init(jax.random.key(experiment.seed)),
            optimizer,
            settings,
            devices,
            mesh,
            seed=experiment.seed,
        )
        train(
            state,
            train_step,
            training_batches(experiment),
            settings=settings,
            mesh=mesh,
            workdir=folder,
            evaluate=lambda _: {},
        )


def print_dry_run(config: dict[str, Any], experiment: Any) -> None:
    """The settings of the classifier, and its parameters."""
    import jax

    from score_sde.networks import count_parameters
    from score_sde.run.model import classifier_network

    network = classifier_network(experiment)
    params = jax.eval_shape(lambda: network.init(jax.random.key(0)))
    print(json.dumps(config["classifier"], indent=2))
    print(f"parameters: {count_parameters(params):,}")


if __name__ == "__main__":
    launch.run(main, __doc__ or "")
