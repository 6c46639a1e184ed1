"""An experiment: the objects that a config names, bound to each other.

`build.py` makes it. Here are the functions that its objects make together, such as the
denoiser of its network; `objective.py` has its losses, and `inference.py` samples and
likelihoods. Each is pure, to be compiled once by whoever calls it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.random as jr

from score_sde import data, elbo, losses, sde
from score_sde.conditions import Condition
from score_sde.dequantisation import Dequantised, variational
from score_sde.guidance import from_logits, network_evals
from score_sde.networks import (
    Classifier,
    Dequantiser,
    LogVariance,
    Network,
    from_linen,
)
from score_sde.noise_levels import Learned, NoiseLevels
from score_sde.precondition import (
    Precondition,
    make_classifier,
    make_denoiser,
    make_denoiser_with_variance,
)
from score_sde.run.evaluation_settings import Editing, Sampling, Scoring
from score_sde.run.settings import Data, Loss, NoisyClassifier, Told
from score_sde.runtime.mesh import Devices
from score_sde.samplers.ddpm import DDPM
from score_sde.samplers.steps import Sampler
from score_sde.training.loop import Training
from score_sde.training.optimizer import Optimizer
from score_sde.types import Array, Denoise, Key

Params = Any


class Experiment(NamedTuple):
    """What a config describes. Nothing here has touched a device."""

    seed: int
    data: Data
    dataset: data.Dataset
    sde: sde.SDE
    network: Network
    num_classes: int
    """That the network tells apart; 0 for one that does not."""
    condition: Told
    conditions: tuple[Condition, ...]
    """All that the network is told; none for an unconditional one."""
    precondition: Precondition
    chain: Any
    """Levels of the discrete chain that the network knows, ascending, or None."""
    noise_levels: NoiseLevels
    weight: losses.Weight
    loss: Loss
    optimizer: Optimizer
    train: Training
    devices: Devices
    sampler: Sampler
    grid: Callable[[], Array]
    guidance: Callable[..., Denoise]
    threshold: Callable[[Denoise], Denoise]
    sampling: Sampling
    likelihood: Scoring
    editing: Editing
    classifier: NoisyClassifier
    worse: Experiment | None = None
    """Of the model that guidance 'auto' leads away from."""


def init_params(experiment: Experiment) -> Params:
    """The initial parameters, a function of the seed."""
    key_network, key_variance = jr.split(jr.key(experiment.seed))
    params = {"network": experiment.network.init(key_network)}
    if experiment.loss.learn_log_variance and not experiment.network.log_variance:
        params["log_variance"] = LogVariance.init(key_variance)
    if experiment.data.points == "variational":
        key_flow = jr.fold_in(jr.key(experiment.seed), 2)
        params["dequantiser"] = Dequantiser.init(key_flow, experiment.dataset.shape)
    if isinstance(experiment.noise_levels, Learned):
        params["noise_levels"] = experiment.noise_levels.init()
    return params


def project_params(experiment: Experiment, params: Params) -> Params:
    """Parameters where training keeps them: `Network.project` of the network's."""
    return params | {"network": experiment.network.project(params["network"])}


def log_variance(
    experiment: Experiment, params: Params
) -> Callable[[Array], Array] | None:
    """u(log sigma): the network's own, or the common one; None if not learned."""
    if not experiment.loss.learn_log_variance:
        return None
    own = experiment.network.log_variance
    if own is None:
        return partial(LogVariance.apply, params["log_variance"])
    return lambda log_sigma: own(params["network"], log_sigma / 4)


def _network_fn(
    experiment: Experiment, params: Params, dropout_key: Key | None
) -> Callable[..., Array]:
    return partial(experiment.network.apply, params["network"], dropout_key=dropout_key)


def denoiser(
    experiment: Experiment, params: Params, *, dropout_key: Key | None = None
) -> Denoise:
    """The denoiser of the experiment's network with these parameters."""
    network_fn = _network_fn(experiment, params, dropout_key)
    return make_denoiser(network_fn, experiment.precondition)


def _denoiser_with_variance(
    experiment: Experiment, params: Params, dropout_key: Key | None
) -> Callable[..., tuple[Array, Array]]:
    network_fn = _network_fn(experiment, params, dropout_key)
    return make_denoiser_with_variance(network_fn, experiment.precondition)


def reverse_chain(
    experiment: Experiment, params: Params, *, dropout_key: Key | None = None
) -> elbo.Reverse:
    """The steps of the discrete chain, of a network that predicts their variances."""
    return elbo.with_learned_variance(
        _denoiser_with_variance(experiment, params, dropout_key)
    )


def bound_sampler(experiment: Experiment, params: Params, cond: Any) -> Sampler:
    """The sampler, told the variances if it needs those that the network predicts.

    Under guidance they are those of the condition, for an evaluation more.
    """
    sampler = experiment.sampler
    if not (isinstance(sampler, DDPM) and sampler.variance == "learned"):
        return sampler
    predict = _denoiser_with_variance(experiment, params, None)
    return dataclasses.replace(
        sampler, learned=lambda x, sigma: predict(x, sigma, cond)[1]
    )


def guided_denoiser(experiment: Experiment, params: Params) -> Denoise:
    """The denoiser from which samples are drawn.

    Args: `params`, with those of the classifier under "classifier" if it guides, and
    those of the worse model under "worse".
    """
    guide = experiment.guidance
    if "worse" in params:
        assert experiment.worse is not None
        guide = partial(guide, worse=denoiser(experiment.worse, params["worse"]))
    if "classifier" in params:
        apply = partial(classifier_network(experiment).apply, params["classifier"])
        log_prob = from_logits(make_classifier(apply, experiment.precondition))
        guide = partial(guide, log_prob=log_prob)
    return experiment.threshold(guide(denoiser(experiment, params)))


def evals_per_call(experiment: Experiment, params: Params) -> tuple[int, int]:
    """The fewest and the most evaluations of the network in one call of the denoiser.

    Over the levels of the grid; both are 1 without guidance.
    """
    evals = network_evals(guided_denoiser(experiment, params), experiment.grid()[:-1])
    return int(evals.min()), int(evals.max())


def classifier_network(experiment: Experiment) -> Network:
    """The network of the settings `classifier`: logits of noisy data."""
    settings = experiment.classifier
    module = Classifier(
        num_classes=experiment.dataset.num_classes,
        width=settings.width,
        depth=settings.depth,
        dropout=settings.dropout,
    )
    return from_linen(module, experiment.dataset.shape)


def decoder(experiment: Experiment) -> elbo.Decoder:
    """p(levels | x) at the lowest noise: of bins if the data are levels."""
    levels = experiment.dataset.num_levels
    if levels is None:
        return elbo.gaussian_decoder
    return elbo.discretised_decoder(2 / levels)


def dequantised(
    experiment: Experiment, params: Params, keys: Key, values: Array
) -> Dequantised:
    """Points where the flow that was trained with the network puts them."""
    levels = experiment.dataset.num_levels
    assert levels is not None  # `build` refuses variational points of points
    flow = partial(Dequantiser.apply, params["dequantiser"])
    return variational(keys, values, num_levels=levels, flow=flow)
