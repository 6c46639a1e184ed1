"""Training a config: its loss, its batches, and its cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from score_sde import conditions, data
from score_sde.data import batches
from score_sde.guidance import drop_condition
from score_sde.networks.flops import flops_of
from score_sde.run.experiment import Experiment
from score_sde.run.model import (
    init_params,
    posterior_points,
    trained_part,
    training_points,
    with_companions,
)
from score_sde.run.objective import Batch, Context
from score_sde.run.objectives import points_cost
from score_sde.run.settings import measured_sigma_data
from score_sde.training.step import NO_COMPANIONS, LossFn, StepContext
from score_sde.types import Array, Key, Params

PREPARED = "prepared"
"""The name, among the companions' parameters, of what the objective prepared."""

TOLERATED, NUM_MEASURED = 1.5, 1_000
"""Factor by which sigma_data may be wrong unsaid, as seen on so many examples."""

Rows = dict[str, Any]


def initial_params(
    experiment: Experiment, companions: Mapping[str, Params] = NO_COMPANIONS
) -> Params:
    """The parameters before the first step, a function of the seed.

    Args:
        experiment: to be trained.
        companions: role -> the parameters of other runs, from which a network may
            start.
    """
    model, objective = experiment.model, experiment.objective
    params = init_params(
        model, experiment.seed, extra=lambda key: objective.init(key, model)
    )
    network = model.network.start(params["network"], companions)
    return params | {"network": objective.start(network, companions)}


def make_loss(
    experiment: Experiment, offers: Mapping[str, Any] | None = None
) -> LossFn:
    """Make the loss of a batch: (key, params, batch of rows, context) -> [batch].

    Args:
        experiment: to be trained.
        offers: role -> (parameters -> what that run offers), of the companions.
    """
    model, objective = experiment.model, experiment.objective
    objective.open()

    def loss(key: Key, params: Params, rows: Rows, step: StepContext) -> Array:
        key_data, key_flip, key_loss, key_dropout = jr.split(key, 4)
        whole = with_companions(params, step.companions)
        if experiment.data.random_flip:
            values = data.flip_at_random(key_flip, rows["values"])
            rows = rows | {"values": values}
        points = training_points(model, key_data, params, rows["values"])
        cond = conditions.in_training(model.conditions, jr.fold_in(key, 5), rows)
        points, cond = trained_part(
            model, jr.fold_in(key, 8), points, rows["values"], cond
        )
        x0 = posterior_points(jr.fold_in(key, 7), points.x, rows)
        if cond is not None and experiment.train.condition_dropout:
            share = experiment.train.condition_dropout
            cond = drop_condition(jr.fold_in(key, 4), cond, share)
        x0, how = conditions.augmented(model.conditions, jr.fold_in(key, 6), x0)
        context = Context(
            model,
            step.step,
            step.average,
            {
                role: offer(step.companions[role])
                for role, offer in (offers or {}).items()
            },
            key_dropout,
            target=with_companions(step.target, step.companions) if step.target else (),
            num_steps=experiment.train.num_steps,
            prepared=step.companions.get(PREPARED, {}),
        )
        batch = Batch(x0, {**(cond or {}), **how} or None, rows)
        found = objective(key_loss, whole, batch, context)
        if model.points == "variational":
            found = found + points_cost(model, points.log_density, x0)
        return found

    return loss


def with_prepared(
    experiment: Experiment,
    params: Params,
    companions: Mapping[str, Params],
    offers: Mapping[str, Callable[[Params], Any]],
) -> Mapping[str, Any]:
    """The companions' parameters, and what the objective prepares before training.

    Args:
        experiment: to be trained.
        params: the initial parameters.
        companions: role -> the parameters of other runs.
        offers: see `make_loss`.
    """
    model, dataset = experiment.model, experiment.dataset
    offered = {role: offer(companions[role]) for role, offer in offers.items()}
    context = Context(model, jnp.zeros((), jnp.int32), params, offered, None)

    def told(index: np.ndarray) -> Any:
        return conditions.of_samples(model.conditions, dataset, index)

    made = experiment.objective.prepare(context, told, experiment.seed)
    return {**companions, PREPARED: made} if made else companions


def scale_note(experiment: Experiment) -> str | None:
    """A line on data whose scale does not suit sigma_data, None where it does."""
    stated = experiment.model.sigma_data
    found = measured_sigma_data(experiment.dataset, NUM_MEASURED)
    if 1 / TOLERATED < found / stated < TOLERATED:
        return None
    return (
        f"note: the training data have standard deviation {found:.3g}, and "
        f"data.sigma_data is {stated:.3g}: --config.data.sigma_data=None measures it."
    )


def training_batches(experiment: Experiment) -> Callable[[int], Iterator[Rows]]:
    """Make batches(step): what this host reads of the batches from that step on."""
    return lambda step: batches(
        experiment.dataset,
        seed=experiment.seed,
        step=step,
        batch_size=experiment.data.batch_size,
        shard=jax.process_index(),
        num_shards=jax.process_count(),
        workers=experiment.data.num_workers,
    )


class Cost(NamedTuple):
    """The cost of training, as `training_cost` finds it."""

    flops: int
    """Operations of all that is trained, for one example, forwards."""
    state_bytes: int
    """Parameters, average, gradient and two moments."""
    kept_bytes: int
    """What the loss of a batch keeps for the backward pass, at most: the compiler
    undercuts it by computing cheap parts again."""


def training_cost(
    experiment: Experiment,
    params: Params,
    companions: Mapping[str, Params] = NO_COMPANIONS,
    offers: Mapping[str, Any] | None = None,
) -> Cost:
    """Estimate the cost of training from shapes alone: nothing is compiled or run.

    Args:
        experiment: to be trained.
        params: its parameters, or their shapes.
        companions: role -> the parameters of other runs, or their shapes.
        offers: see `make_loss`.
    """
    size = experiment.data.batch_size
    stored = experiment.dataset.stored
    values = (size, *stored.shape)
    kind = np.uint8 if stored.num_levels else np.float32
    batch = {"values": jax.ShapeDtypeStruct(values, kind)}
    if experiment.dataset.num_classes:
        batch["label"] = jax.ShapeDtypeStruct((size,), np.int32)
    # Without what would be read or trained first: a dry run needs no data.
    estimated = experiment._replace(objective=experiment.objective.estimated())
    loss = make_loss(estimated, offers)

    def forwards(params: Params, batch: Rows, others: Mapping[str, Params]) -> Any:
        key = jr.key(0)
        step = StepContext(jnp.zeros((), jnp.int32), params, others, params)
        _, backwards = jax.vjp(lambda p: loss(key, p, batch, step).mean(), params)
        return backwards

    program = jax.make_jaxpr(forwards)(params, batch, dict(companions))
    state = jax.tree.leaves(params)
    return Cost(
        flops_of(program.jaxpr) // size, 5 * _bytes(state), _bytes(program.out_avals)
    )


def _bytes(arrays: Sequence[Any]) -> int:
    return sum(a.size * a.dtype.itemsize for a in arrays)
