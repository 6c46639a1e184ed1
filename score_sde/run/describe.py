"""The description of a run before it runs: the resolved config and its cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax

from score_sde.networks import count_parameters
from score_sde.run import companions
from score_sde.run.build import build
from score_sde.run.experiment import Experiment
from score_sde.run.open import SAMPLES, Run, open_run
from score_sde.run.train import initial_params, training_cost, with_prepared


def print_dry_run(config: Mapping[str, Any], experiment: Experiment) -> None:
    """Print the resolved config, parameters, operations and an estimate of memory."""
    expected = companions.expected(experiment)
    params = jax.eval_shape(lambda: initial_params(experiment, expected.params))
    used = jax.eval_shape(
        lambda own, others: with_prepared(experiment, own, others, expected.offers),
        params,
        dict(expected.params),
    )
    cost = training_cost(experiment, params, used, expected.offers)
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


class Command(Protocol):
    """The command of a program, as `experiments.launch` parses it."""

    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def workdir(self) -> Path: ...
    @property
    def dry_run(self) -> bool: ...
    @property
    def hosts(self) -> dict[str, Any] | None: ...


def opened(command: Command, *, needs: str = SAMPLES) -> Run | None:
    """Open the run of a command; None after a dry run, which is printed.

    Args:
        command: of the command line.
        needs: see `open_run`.
    """
    if command.dry_run:
        print_dry_run(command.config, build(command.config))
        return None
    return open_run(command.workdir, command.config, hosts=command.hosts, needs=needs)
