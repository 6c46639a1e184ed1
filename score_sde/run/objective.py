"""What training minimises: the loss of a batch, of the model and of its classifier."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde import conditions, data, elbo, losses
from score_sde.arrays import mean_over_data, per_example
from score_sde.guidance import drop_condition
from score_sde.noise_levels import Learned, LikelihoodImportance
from score_sde.precondition import make_classifier
from score_sde.run.model import (
    Experiment,
    classifier_network,
    decoder,
    denoiser,
    dequantised,
    log_variance,
    reverse_chain,
)
from score_sde.types import Array, Key

Params = Any


def batch_loss(experiment: Experiment, key: Key, params: Params, batch: Any) -> Array:
    """One loss per example of a batch of `data.batch_at`."""
    key_data, key_flip, key_loss, key_dropout = jr.split(key, 4)
    values = _flipped(experiment, key_flip, batch["values"])
    if experiment.data.points == "variational":
        x0, cost = _learned_points(experiment, key_data, params, values)
    else:
        x0 = _training_points(experiment, key_data, values)
        cost = jnp.zeros((), x0.dtype)
    told = batch | {"values": values}
    cond = conditions.in_training(experiment.conditions, jr.fold_in(key, 5), told)
    if cond is not None and experiment.loss.condition_dropout:
        key_drop = jr.fold_in(key, 4)
        cond = drop_condition(key_drop, cond, experiment.loss.condition_dropout)
    if experiment.data.augment_probability:
        key_augment = jr.fold_in(key, 6)
        probability = experiment.data.augment_probability
        x0, how = data.augment(key_augment, x0, probability=probability)
        cond = (cond or {}) | {"augment": how}
    if experiment.loss.bound_weight:
        return elbo.hybrid_loss(
            key_loss,
            reverse_chain(experiment, params, dropout_key=key_dropout),
            x0,
            sigmas=jnp.asarray(experiment.chain, x0.dtype),
            decoder=decoder(experiment),
            bound_weight=experiment.loss.bound_weight,
            cond=cond,
        )
    noise_levels, reference = experiment.noise_levels, None
    if isinstance(noise_levels, Learned):
        reference = LikelihoodImportance(experiment.sde)
        noise_levels = dataclasses.replace(noise_levels, logits=params["noise_levels"])
    return cost + losses.denoising_loss(
        key_loss,
        denoiser(experiment, params, dropout_key=key_dropout),
        x0,
        noise_levels=noise_levels,
        reference=reference,
        weight=experiment.weight,
        log_variance=log_variance(experiment, params),
        cond=cond,
    )


def loss_by_level(
    experiment: Experiment,
    params: Params,
    keys: Key,
    values: Array,
    cond: Any,
    *,
    num_levels: int,
) -> Array:
    """The weighted squared error of examples at given levels, [batch, num_levels].

    At `middle_levels`, so that its mean is the loss. The noise of an example is a
    function of its key.
    """
    sigmas = middle_levels(experiment, num_levels)
    x0 = _training_points(experiment, keys, values)
    denoise = denoiser(experiment, params)

    def at(index: Array) -> Array:
        draw = jax.vmap(lambda key: jr.fold_in(jr.fold_in(key, 1), index))
        eps = per_example(jr.normal, draw(keys), x0)
        sigma = jnp.full(len(x0), sigmas[index])
        error = denoise(x0 + sigmas[index] * eps, sigma, cond) - x0
        return experiment.weight(sigma) * mean_over_data(error**2)

    return jax.lax.map(at, jnp.arange(num_levels)).T


def middle_levels(experiment: Experiment, num_levels: int) -> Array:
    """The middles of equal shares of the noise levels of training, [num_levels]."""
    u = (jnp.arange(num_levels, dtype=jnp.float32) + 0.5) / num_levels
    return experiment.noise_levels.quantile(u)


def _flipped(experiment: Experiment, key: Key, values: Array) -> Array:
    if not experiment.data.random_flip:
        return values
    return data.flip_at_random(key, values)


def _training_points(experiment: Experiment, key: Key, values: Array) -> Array:
    levels = experiment.dataset.num_levels
    if experiment.data.points == "centres":
        return data.centres(values, num_levels=levels)
    return data.dequantise(key, values, num_levels=levels)


def _learned_points(
    experiment: Experiment, key: Key, params: Params, values: Array
) -> tuple[Array, Array]:
    """(x0, what these points cost, in the unit of the loss)."""
    x0, log_density = dequantised(experiment, params, key, values)
    # The bound in nats per dimension, over the span of log sigma: the loss is a mean.
    sde = experiment.sde
    span = jnp.log(sde.sigma(sde.t_max) / sde.sigma(sde.t_min))
    return x0, log_density / (math.prod(x0.shape[1:]) * span.astype(x0.dtype))


def classifier_loss(
    experiment: Experiment, key: Key, params: Params, batch: Any
) -> Array:
    """The loss of the classifier, as `batch_loss` is that of the model.

    Where the model learns its points, the classifier sees uniform ones.
    """
    key_data, key_flip, key_loss, key_dropout = jr.split(key, 4)
    values = _flipped(experiment, key_flip, batch["values"])
    apply = classifier_network(experiment).apply
    return losses.classification_loss(
        key_loss,
        make_classifier(
            partial(apply, params, dropout_key=key_dropout), experiment.precondition
        ),
        _training_points(experiment, key_data, values),
        batch["label"],
        noise_levels=experiment.noise_levels,
    )
