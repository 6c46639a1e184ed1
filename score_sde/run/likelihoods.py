"""Log-likelihoods, and bounds on them, of examples under a trained model."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde import conditions, data, elbo
from score_sde.arrays import example_keys, per_example, sum_over_data
from score_sde.dequantisation import Dequantised
from score_sde.few_step_likelihood import default_num_evals, few_step_log_prob
from score_sde.likelihood import DIVERGENCES, LogProb, exact, log_prob
from score_sde.precondition import make_score
from score_sde.run.experiment import Experiment
from score_sde.run.model import (
    Model,
    decoder,
    denoiser,
    jump,
    noise_of_rows,
    part_of_points,
    reverse_chain,
    scoring_points,
)
from score_sde.run.settings import Scoring
from score_sde.sde import SDE
from score_sde.types import Array, Denoise, Key, Params

FlowOf = Callable[[Params], Denoise]
"""Parameters -> the denoiser whose probability flow is meant."""


def score_examples(
    model: Model,
    settings: Scoring,
    params: Params,
    keys_data: Key,
    keys_probe: Key,
    values: Array,
    cond: Any,
    tolerance: Array,
    *,
    flow: FlowOf | None = None,
) -> LogProb:
    """Log-probabilities of examples: log p(x) - log q(x given levels), in nats.

    Args:
        model: of a config.
        settings: how the flow is solved.
        params: of the model.
        keys_data: of the point x of each example, [batch].
        keys_probe: of its probes, [batch].
        values: the examples as the data are stored, [batch, *shape].
        cond: what they are told, or None.
        tolerance: times that of the settings, which a number of steps does not obey.
        flow: whose flow is solved; None for the model's own.
    """
    sde = model.sde
    divergence = DIVERGENCES[settings.divergence]
    if divergence is not exact:
        divergence = partial(divergence, num_probes=settings.num_probes)
    denoise = denoiser(model, params) if flow is None else flow(params)
    solve = partial(
        log_prob,
        sde=sde,
        score=make_score(denoise, sde),
        key=keys_probe,
        divergence=divergence,
        **solver_options(settings, sde),
        rtol=settings.rtol * tolerance,
        atol=settings.atol * tolerance,
    )
    return _at_points(model, settings, params, keys_data, values, cond, solve)


def score_by_jumps(
    model: Model,
    settings: Scoring,
    params: Params,
    keys_data: Key,
    values: Array,
    cond: Any,
) -> LogProb:
    """Log-probabilities of examples by a few jumps of a student, in nats.

    Arguments are those of `score_examples`; there are no probes.
    """
    own = jump(model, params)
    solve = partial(
        few_step_log_prob,
        sde=model.sde,
        jump=own,
        num_evals=settings.num_jumps or default_num_evals(own),
    )
    return _at_points(model, settings, params, keys_data, values, cond, solve)


def scorer(experiment: Experiment) -> Callable[..., LogProb]:
    """The way in which a run scores examples: by its flow, or by jumps of a student.

    It is a function of (params, keys_data, keys_probe, values, cond, tolerance).
    """
    model, settings = experiment.model, experiment.likelihood
    if not experiment.objective.learns_divergence:
        return partial(score_examples, model, settings)

    def score(
        params: Params, keys: Key, _: Key, values: Array, cond: Any, tolerance: Array
    ) -> LogProb:
        del tolerance
        return score_by_jumps(model, settings, params, keys, values, cond)

    return score


def _at_points(
    model: Model,
    settings: Scoring,
    params: Params,
    keys_data: Key,
    values: Array,
    cond: Any,
    solve: Callable[..., LogProb],
) -> LogProb:
    """Log-probabilities of examples by a function of xt at t_min, and of cond."""
    points = scoring_points(
        model, params, keys_data, values, dequantisation=settings.dequantisation
    )
    points, cond = part_of_points(model, points, cond)
    log_alpha = jnp.asarray(model.sde.log_alpha(model.sde.t_min), points.x.dtype)
    out = solve(jnp.exp(log_alpha) * points.x, cond=cond)
    num_dims = math.prod(model.shape)
    return out._replace(nats=out.nats + num_dims * log_alpha - points.log_density)


def solver_options(settings: Scoring, sde: SDE) -> dict[str, Any]:
    """Return the arguments `solver` and `times` of `log_prob` that settings mean."""
    if settings.solver != "multistep":
        return {"solver": settings.solver}
    from score_sde.multistep_flow import Multistep

    options: dict[str, Any] = {"solver": Multistep(settings.order)}
    if settings.num_steps:
        options["times"] = even_in_log_sigma(sde, settings.num_steps)
    return options


def even_in_log_sigma(sde: SDE, num_steps: int) -> Array:
    """Times from t_min to t_max whose levels are even in log sigma, [num_steps + 1]."""
    ends = jnp.log(sde.sigma(jnp.asarray([sde.t_min, sde.t_max])))
    between = jnp.linspace(ends[0], ends[1], num_steps + 1)[1:-1]
    times = sde.t_from_sigma(jnp.exp(between))
    first, last = (jnp.full(1, t, times.dtype) for t in (sde.t_min, sde.t_max))
    return jnp.concatenate([first, times, last])


def class_log_probs(
    model: Model,
    settings: Scoring,
    params: Params,
    keys_data: Key,
    keys_probe: Key,
    values: Array,
    *,
    num_classes: int,
) -> Array:
    """log p(x given c) of examples under every class, in nats: [batch, num_classes].

    Under all classes x is the same point and the probes are the same, so that their
    noise cancels in the differences. With equal priors, the largest is the class by
    Bayes' rule. Arguments are those of `score_examples`.
    """

    def under(label: Array) -> Array:
        labels = jnp.broadcast_to(label, values.shape[:1])
        examples = {"values": values, "label": labels}
        cond = conditions.of_examples(model.conditions, examples)
        one = jnp.ones((), jnp.float32)
        return score_examples(
            model, settings, params, keys_data, keys_probe, values, cond, one
        ).nats

    return jax.lax.map(under, jnp.arange(num_classes)).T


def decodes_levels(model: Model, settings: Scoring) -> bool:
    """Whether the bound is on probabilities of levels, and takes no points in bins."""
    return settings.dequantisation == "truncated_normal" and bool(model.num_levels)


def bound_examples(
    model: Model,
    settings: Scoring,
    params: Params,
    keys_data: Key,
    keys_noise: Key,
    values: Array,
    cond: Any,
    *,
    of_chain: bool,
    flow: FlowOf | None = None,
) -> elbo.Bound:
    """The bound of the reverse SDE on -log P of examples, in nats.

    It is taken at the points of `score_examples`; for models trained on centres, by the
    discretised decoder, without points. Of a part of images the decoder is its share of
    that of the images, whose stages' bounds add up to a bound.

    Args:
        model: of a config.
        settings: how many noise levels are drawn for each example.
        params: of the model.
        keys_data: of the point x of each example, [batch].
        keys_noise: of its noise levels and noise, [batch].
        values: the examples as the data are stored, [batch, *shape].
        cond: what they are told, or None.
        of_chain: whether the bound is that of the discrete chain, with the variances
            that the network predicts.
        flow: whose denoiser is taken; None for the model's own.
    """
    sde = model.sde
    if of_chain or decodes_levels(model, settings):
        points, cond, decode = _centres(model, keys_data, values, cond)
    else:
        points = scoring_points(
            model, params, keys_data, values, dequantisation=settings.dequantisation
        )
        points, cond = part_of_points(model, points, cond)
        decode = elbo.gaussian_decoder
    if of_chain:
        return elbo.chain_bound(
            keys_noise,
            reverse_chain(model, params),
            points.x,
            sigmas=jnp.asarray(model.chain, points.x.dtype),
            decoder=decode,
            cond=cond,
        )
    bound = elbo.continuous_bound(
        keys_noise,
        denoiser(model, params) if flow is None else flow(params),
        points.x,
        sigma_min=sde.sigma(sde.t_min),
        sigma_max=sde.sigma(sde.t_max),
        decoder=decode,
        num_draws=settings.bound_draws,
        cond=cond,
    )
    return bound._replace(decoder=bound.decoder + points.log_density)


def _centres(
    model: Model, keys: Key, values: Array, cond: Any
) -> tuple[Dequantised, Any, elbo.Decoder]:
    """(the centres of the levels, what is told of them, the decoder of levels).

    Of a part of images, told is what the coarse image has at the noise that all stages
    end at, and its share of the whole image's decoder stands in place of a density.
    """
    levels = model.num_levels
    x0 = data.centres(values, num_levels=levels)
    points, decode = Dequantised(x0, jnp.zeros(len(x0), x0.dtype)), decoder(model)
    if model.part is None:
        return *part_of_points(model, points, cond), decode
    assert levels is not None  # parts are of images of levels
    sigma = jnp.asarray(noise_of_rows(model), x0.dtype)
    z = x0 + sigma * per_example(jr.normal, example_keys(keys, len(x0)), x0)
    given_z = elbo.level_log_prob(x0, z, sigma, num_levels=levels)
    points = Dequantised(x0, -sum_over_data(given_z))
    return *part_of_points(model, points, cond, told_of=z), elbo.no_decoder
