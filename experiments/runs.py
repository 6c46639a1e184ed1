"""What the programs share of runs: opening one, making one, what made a file."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .launch import Command, load_config


def require_frozen(command: Command) -> None:
    """Raises: UserError if a control branch is to be trained on no trained network."""
    from score_sde.types import UserError

    name, workdir = command.config["network"]["name"], command.workdir
    if name == "controlled_unet" and not (workdir / "checkpoints").is_dir():
        raise UserError(
            f"network.name is {name!r}, a branch of a trained run, and there is none "
            f"in {workdir}: make it by python -m experiments.add_control --from=RUN "
            f"--workdir={workdir}"
        )


@contextlib.contextmanager
def writing(folder: Path, hosts: dict[str, Any] | None) -> Iterator[None]:
    """With the devices started, while no other program writes to the folder.

    On one host the lock comes first, so that a refusal takes no devices.
    """
    from score_sde.runtime.lock import locked
    from score_sde.runtime.mesh import start_devices

    if hosts is not None:
        start_devices(hosts)
    with locked(folder):
        if hosts is None:
            start_devices()
        yield


@contextlib.contextmanager
def new_run(workdir: Path) -> Iterator[Path]:
    """A folder to be filled, which becomes workdir if nothing goes wrong meanwhile.

    Raises: UserError if workdir is there and not an empty folder.
    """
    from score_sde.types import UserError

    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"{workdir} is in use; name another --workdir.")
    partial = workdir.with_name(f".{workdir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        if workdir.exists():
            workdir.rmdir()
        partial.rename(workdir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def print_dry_run(config: dict[str, Any], experiment: Any) -> None:
    """The resolved config, parameters, operations and an estimate of memory."""
    import jax

    from score_sde.networks import count_parameters
    from score_sde.run.jobs import training_cost
    from score_sde.run.model import init_params

    params = jax.eval_shape(lambda: init_params(experiment))
    cost = training_cost(experiment, params)
    batch = 3 * cost.flops * experiment.data.batch_size
    state, kept = (n / 2**20 for n in (cost.state_bytes, cost.kept_bytes))
    print(json.dumps(config, indent=2))
    print(f"parameters: {count_parameters(params):,}")
    print(
        f"operations: {cost.flops / 1e9:,.3g} GFLOP for an example forwards, and about "
        f"{batch / 1e9:,.3g} to train on a batch"
    )
    print(
        f"memory to train: {state:,.0f} MiB of state on each device, and at most "
        f"{kept:,.0f} MiB of activations over all of them"
    )


class Run(NamedTuple):
    """A trained run, opened to use its model."""

    experiment: Any
    mesh: Any
    step: int
    """Of the newest checkpoint."""
    params: Any
    """Their moving average."""


def open_run(command: Command) -> Run | None:
    """The run of a command; None after a dry run, which is printed."""
    import jax

    from score_sde.run.build import build
    from score_sde.run.model import init_params
    from score_sde.runtime.mesh import local_mesh, start_devices

    experiment = build(command.config)
    if command.dry_run:
        print_dry_run(command.config, experiment)
        return None
    guidance = command.config["guidance"]
    if guidance["name"] == "auto":
        worse = _worse(experiment, Path(guidance["run"]))
        experiment = experiment._replace(worse=worse)
    start_devices(command.hosts)
    like = jax.eval_shape(lambda: init_params(experiment))
    step, params = restored(command.workdir / "checkpoints", like)
    if guidance["name"] == "auto":
        like = jax.eval_shape(lambda: init_params(worse))
        _, bad = restored(Path(guidance["run"]) / "checkpoints", like)
        params = params | {"worse": bad}
    if guidance["name"] == "classifier":
        params = params | {"classifier": _classifier(command.workdir, experiment)}
    return Run(experiment, local_mesh(), step, params)


def restored(folder: Path, like: Any) -> tuple[int, Any]:
    """(step, averaged parameters) of the newest checkpoint, whole on every device."""
    import jax

    from score_sde.runtime.mesh import (
        Devices,
        local_mesh,
        make_mesh,
        replicated,
        to_host,
    )
    from score_sde.training.checkpoints import Checkpoints

    mesh = make_mesh(Devices())
    like = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=replicated(mesh)),
        like,
    )
    with Checkpoints(folder, create=False) as checkpoints:
        step, params = checkpoints.restore_average(like)
    if jax.process_count() > 1:
        params = jax.device_put(to_host(params, mesh), replicated(local_mesh()))
    return step, params


def _worse(experiment: Any, workdir: Path) -> Any:
    """The experiment of a run that guides by being worse.

    Raises: UserError if it is of other data, or told something else of them.
    """
    from score_sde.conditions import of_blank
    from score_sde.run.build import build, complete
    from score_sde.types import UserError

    worse = build(complete(load_config(None, workdir)))

    def told(experiment: Any) -> Any:
        data = experiment.dataset
        names = list(of_blank(experiment.conditions, data.shape) or {})
        return data.name, data.shape, experiment.condition, names

    if told(worse) != told(experiment):
        raise UserError(
            f"guidance.run: {workdir} is of other data, or told something else of them."
        )
    return worse


def _classifier(workdir: Path, experiment: Any) -> Any:
    """The parameters that `experiments.train_classifier` left.

    Raises: UserError if it left none.
    """
    import jax

    from score_sde.run.model import classifier_network
    from score_sde.types import UserError

    like = jax.eval_shape(
        lambda: classifier_network(experiment).init(jax.random.key(0))
    )
    folder = workdir / "classifier" / "checkpoints"
    if not folder.is_dir():
        raise UserError(
            f"guidance.name is 'classifier', and there is none in {folder}: train it "
            f"by python -m experiments.train_classifier --workdir={workdir}"
        )
    return restored(folder, like)[1]


def fingerprint(config: dict[str, Any], step: int, *sections: str) -> dict[str, Any]:
    """What decides a result: the checkpoint's step, the seed, and these sections."""
    return json.loads(
        json.dumps(
            {"step": step, "seed": config["seed"]} | {s: config[s] for s in sections}
        )
    )


def is_done(report: Path, made_by: dict[str, Any]) -> bool:
    """Whether a report exists that was made by exactly this."""
    if not report.exists():
        return False
    old = json.loads(report.read_text())
    return all(old.get(name) == value for name, value in made_by.items())
