"""What a trained model is used for: samples, and log-likelihoods of examples."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde import conditions, data, elbo
from score_sde.arrays import example_keys, per_example
from score_sde.dequantisation import DEQUANTISERS, Dequantised
from score_sde.likelihood import DIVERGENCES, LogProb, exact, log_prob
from score_sde.precondition import make_score
from score_sde.run.model import (
    Experiment,
    bound_sampler,
    decoder,
    denoiser,
    dequantised,
    guided_denoiser,
    reverse_chain,
)
from score_sde.samplers import sample
from score_sde.types import Array, Key

Params = Any


class Samples(NamedTuple):
    """One entry per sample in each field."""

    levels: Array
    """Like the data as they are stored, [batch, *dims]."""
    num_evals: Array
    """Calls of the denoiser."""
    success: Array
    """False where an adaptive sampler gave up or x is not finite."""


def draw_samples(
    experiment: Experiment, params: Params, keys: Key, cond: Any
) -> Samples:
    """One sample per key, each a function of its key and of what it is told."""
    sigmas = experiment.grid()
    like = jnp.zeros((len(keys), *experiment.dataset.shape), jnp.float32)
    keys_start, keys_path = jax.vmap(jr.split, out_axes=1)(keys)
    start = sigmas[0].astype(like.dtype) * per_example(jr.normal, keys_start, like)
    result = sample(
        bound_sampler(experiment, params, cond),
        guided_denoiser(experiment, params),
        start,
        sigmas,
        key=keys_path,
        cond=cond,
    )
    finite = jnp.isfinite(result.x.reshape(len(keys), -1)).all(1)
    return Samples(
        data.to_levels(result.x, num_levels=experiment.dataset.num_levels),
        jnp.broadcast_to(result.num_evals, finite.shape),
        finite if result.success is None else finite & result.success,
    )


def score_examples(
    experiment: Experiment,
    params: Params,
    keys_data: Key,
    keys_probe: Key,
    values: Array,
    cond: Any,
    tolerance: Array,
) -> LogProb:
    """Log-probabilities of examples: log p(x) - log q(x given levels), in nats.

    The point x of example i is a function of keys_data[i], its probes one of
    keys_probe[i]. Args: `tolerance`, times that of the settings.
    """
    settings, sde = experiment.likelihood, experiment.sde
    divergence = DIVERGENCES[settings.divergence]
    if divergence is not exact:
        divergence = partial(divergence, num_probes=settings.num_probes)
    points = _points(experiment, params, keys_data, values)
    log_alpha = jnp.asarray(sde.log_alpha(sde.t_min), points.x.dtype)
    out = log_prob(
        jnp.exp(log_alpha) * points.x,
        sde=sde,
        score=make_score(denoiser(experiment, params), sde),
        key=keys_probe,
        divergence=divergence,
        rtol=settings.rtol * tolerance,
        atol=settings.atol * tolerance,
        cond=cond,
    )
    num_dims = math.prod(experiment.dataset.shape)
    return out._replace(nats=out.nats + num_dims * log_alpha - points.log_density)


def class_log_probs(
    experiment: Experiment,
    params: Params,
    keys_data: Key,
    keys_probe: Key,
    values: Array,
) -> Array:
    """log p(x given c) of examples under every class, in nats: [batch, classes].

    Under all classes x is the same point and the probes are the same, so that their
    noise cancels in the differences. With equal priors, the largest is the class by
    Bayes' rule.
    """

    def under(label: Array) -> Array:
        labels = jnp.broadcast_to(label, values.shape[:1])
        examples = {"values": values, "label": labels}
        cond = conditions.of_examples(experiment.conditions, examples)
        one = jnp.ones((), jnp.float32)
        return score_examples(
            experiment, params, keys_data, keys_probe, values, cond, one
        ).nats

    return jax.lax.map(under, jnp.arange(experiment.num_classes)).T


def bound_examples(
    experiment: Experiment,
    params: Params,
    keys_data: Key,
    keys_noise: Key,
    values: Array,
    cond: Any,
) -> elbo.Bound:
    """The bound of the reverse SDE on -log P of examples, in nats.

    Of the same points as `score_examples`; of models trained on centres, by the
    discretised decoder, without points. Of models trained by the hybrid loss, the bound
    of their chain.
    """
    settings, sde = experiment.likelihood, experiment.sde
    levels = experiment.dataset.num_levels
    decode: elbo.Decoder = elbo.gaussian_decoder
    points = _points(experiment, params, keys_data, values)
    of_chain = experiment.loss.bound_weight > 0
    if of_chain or (settings.dequantisation == "truncated_normal" and levels):
        decode = decoder(experiment)
        x0 = data.centres(values, num_levels=levels)
        points = Dequantised(x0, jnp.zeros_like(points.log_density))
    if of_chain:
        return elbo.chain_bound(
            keys_noise,
            reverse_chain(experiment, params),
            points.x,
            sigmas=jnp.asarray(experiment.chain, points.x.dtype),
            decoder=decode,
            cond=cond,
        )
    bound = elbo.continuous_bound(
        keys_noise,
        denoiser(experiment, params),
        points.x,
        sigma_min=sde.sigma(sde.t_min),
        sigma_max=sde.sigma(sde.t_max),
        decoder=decode,
        num_draws=settings.bound_draws,
        cond=cond,
    )
    return bound._replace(decoder=bound.decoder + points.log_density)


def _points(
    experiment: Experiment, params: Params, keys: Key, values: Array
) -> Dequantised:
    if experiment.likelihood.dequantisation == "variational":
        return dequantised(experiment, params, keys, values)
    return DEQUANTISERS[experiment.likelihood.dequantisation](
        keys,
        values,
        num_levels=experiment.dataset.num_levels,
        sigma=experiment.sde.sigma(experiment.sde.t_min),
    )


def sample_keys(seed: int, first: int, count: int) -> Key:
    """The keys of samples first, first + 1, ...: functions of (seed, index)."""
    return example_keys(jr.key(seed), count, first=first)
