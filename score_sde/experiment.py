"""An experiment: the objects that a config names, and how they work together.

`build.py` makes it. The functions here bind its objects to each other: the loss of a
batch, a batch of samples, the log-likelihoods of a batch. Each is pure, to be compiled
once by whoever calls it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde import data, elbo, losses, sde
from score_sde.arrays import example_keys, per_example
from score_sde.data import captions
from score_sde.dequantisation import DEQUANTISERS, Dequantised, variational
from score_sde.evaluation.settings import Editing, Sampling, Scoring
from score_sde.guidance import drop_condition, from_logits, network_evals
from score_sde.likelihood import DIVERGENCES, LogProb, exact, log_prob
from score_sde.networks import (
    Classifier,
    Dequantiser,
    LogVariance,
    Network,
    from_linen,
)
from score_sde.noise_levels import Learned, LikelihoodImportance, NoiseLevels
from score_sde.precondition import (
    Precondition,
    make_classifier,
    make_denoiser,
    make_score,
    make_variance,
)
from score_sde.samplers import sample
from score_sde.samplers.steps import Sampler
from score_sde.training.loop import Training
from score_sde.training.optimizer import Optimizer
from score_sde.types import Array, Denoise, Key, require

Params = Any
POINTS = ("uniform", "centres", "variational")


@dataclasses.dataclass(frozen=True)
class Data:
    """Which data, and how they are fed.

    The data named 'absent' are not here, and nothing but their format is known: shape
    and num_levels (0 for points or latents), which other data have of themselves. A
    model can draw such data, of the classes that its network knows.

    sigma_data is the standard deviation of the scaled data, which EDM's preconditioner
    and weight need. Training sees each level as a point drawn from its bin, 'uniform',
    as the centre of its bin, 'centres', or where a flow that is trained with the
    network puts it, 'variational'. EDM's augmentation transforms each image in each way
    with augment_probability, and the network is told how.
    """

    name: str
    batch_size: int = 128
    random_flip: bool = False
    sigma_data: float = 0.5
    points: str = "uniform"
    augment_probability: float = 0.0
    shape: tuple[int, ...] = (32, 32, 3)
    num_levels: int = 256

    def __post_init__(self) -> None:
        require(
            self,
            ("1 <= batch_size", lambda d: d.batch_size >= 1),
            ("0 < sigma_data", lambda d: 0 < d.sigma_data < math.inf),
            (f"points in {POINTS}", lambda d: d.points in POINTS),
            (
                "0 <= augment_probability <= 1",
                lambda d: 0 <= d.augment_probability <= 1,
            ),
            ("shape of numbers > 0", lambda d: d.shape and min(d.shape) >= 1),
            ("0 <= num_levels <= 256", lambda d: 0 <= d.num_levels <= 256),
        )


@dataclasses.dataclass(frozen=True)
class Loss:
    """Options of the loss beside its weight and noise levels."""

    learn_log_variance: bool = False
    condition_dropout: float = 0.0
    """Share of the examples whose condition is not told, for guidance."""
    bound_weight: float = 0.0
    """Above 0, the hybrid loss of a network that predicts the variances of its chain,
    and how much its bound counts in it; 0.001 (Nichol and Dhariwal 2021)."""

    def __post_init__(self) -> None:
        require(
            self,
            ("0 <= condition_dropout <= 1", lambda c: 0 <= c.condition_dropout <= 1),
            ("0 <= bound_weight", lambda c: 0 <= c.bound_weight < math.inf),
        )


@dataclasses.dataclass(frozen=True)
class NoisyClassifier:
    """The classifier of noisy data that may guide samples, and its training.

    It is trained on the noise levels and with the input scaling of the model's network.
    """

    width: int = 256
    depth: int = 3
    dropout: float = 0.2
    num_steps: int = 4_000
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        require(
            self,
            ("1 <= width", lambda c: c.width >= 1),
            ("1 <= depth", lambda c: c.depth >= 1),
            ("0 <= dropout < 1", lambda c: 0 <= c.dropout < 1),
            ("1 <= num_steps", lambda c: c.num_steps >= 1),
            ("0 < learning_rate", lambda c: 0 < c.learning_rate < math.inf),
        )


class Experiment(NamedTuple):
    """What a config describes. Nothing here has touched a device."""

    seed: int
    data: Data
    dataset: data.Dataset
    sde: sde.SDE
    network: Network
    num_classes: int
    """Of the condition; 0 for an unconditional network."""
    captioned: bool
    """Whether the network reads captions; told a label, it reads the label's."""
    precondition: Precondition
    chain: Any
    """Levels of the discrete chain that the network knows, ascending, or None."""
    noise_levels: NoiseLevels
    weight: losses.Weight
    loss: Loss
    optimizer: Optimizer
    train: Training
    sampler: Sampler
    grid: Callable[[], Array]
    guidance: Callable[..., Denoise]
    threshold: Callable[[Denoise], Denoise]
    sampling: Sampling
    likelihood: Scoring
    editing: Editing
    classifier: NoisyClassifier


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


def learned_variance(
    experiment: Experiment,
    params: Params,
    cond: Any,
    *,
    dropout_key: Key | None = None,
) -> elbo.Variance:
    """The variance of the chain's steps that the network predicts."""
    network_fn = _network_fn(experiment, params, dropout_key)
    v = make_variance(network_fn, experiment.precondition)
    return elbo.learned_range(lambda x, sigma: 0.5 * (v(x, sigma, cond) + 1))


def guided_denoiser(experiment: Experiment, params: Params) -> Denoise:
    """The denoiser from which samples are drawn.

    Args: `params`, with those of the classifier under "classifier" if it guides.
    """
    guide = experiment.guidance
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


def condition(experiment: Experiment, labels: Array | None) -> Any:
    """What the network is told of examples with these labels."""
    return {"label": labels} if experiment.num_classes else None


def batch_loss(experiment: Experiment, key: Key, params: Params, batch: Any) -> Array:
    """One loss per example of a batch of `data.batch_at`."""
    key_data, key_flip, key_loss, key_dropout = jr.split(key, 4)
    values = batch["values"]
    if experiment.data.random_flip:
        values = data.flip_at_random(key_flip, values)
    if experiment.data.points == "variational":
        x0, cost = _learned_points(experiment, key_data, params, values)
    else:
        x0 = _training_points(experiment, key_data, values)
        cost = jnp.zeros((), x0.dtype)
    cond = condition(experiment, batch.get("label"))
    if experiment.captioned:
        cond = {"words": captions.random_captions(jr.fold_in(key, 5), batch["label"])}
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
            denoiser(experiment, params, dropout_key=key_dropout),
            x0,
            sigmas=jnp.asarray(experiment.chain, x0.dtype),
            variance=learned_variance(
                experiment, params, cond, dropout_key=key_dropout
            ),
            decoder=_decoder(experiment),
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


def classifier_loss(
    experiment: Experiment, key: Key, params: Params, batch: Any
) -> Array:
    """The loss of the classifier, as `batch_loss` is that of the model.

    Where the model learns its points, the classifier sees uniform ones.
    """
    key_data, key_flip, key_loss, key_dropout = jr.split(key, 4)
    values = batch["values"]
    if experiment.data.random_flip:
        values = data.flip_at_random(key_flip, values)
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


def _wanted(experiment: Experiment, labels: Array | None) -> Any:
    """The condition of samples: the caption of the settings, or their labels."""
    if not experiment.sampling.caption:
        return condition(experiment, labels)
    assert labels is not None  # `build` has seen to it
    words = jnp.asarray(captions.tokens(experiment.sampling.caption))
    return {"words": jnp.broadcast_to(words, (len(labels), *words.shape))}


class Samples(NamedTuple):
    """One entry per sample in each field."""

    levels: Array
    """Like the data as they are stored, [batch, *dims]."""
    num_evals: Array
    """Calls of the denoiser."""
    success: Array
    """False where an adaptive sampler gave up or x is not finite."""


def draw_samples(
    experiment: Experiment, params: Params, keys: Key, labels: Array | None
) -> Samples:
    """One sample per key, each a function of its key."""
    sigmas = experiment.grid()
    like = jnp.zeros((len(keys), *experiment.dataset.shape), jnp.float32)
    keys_start, keys_path = jax.vmap(jr.split, out_axes=1)(keys)
    start = sigmas[0].astype(like.dtype) * per_example(jr.normal, keys_start, like)
    result = sample(
        experiment.sampler,
        guided_denoiser(experiment, params),
        start,
        sigmas,
        key=keys_path,
        cond=_wanted(experiment, labels),
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
    labels: Array | None,
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
        cond=condition(experiment, labels),
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
        one = jnp.ones((), jnp.float32)
        return score_examples(
            experiment, params, keys_data, keys_probe, values, labels, one
        ).nats

    return jax.lax.map(under, jnp.arange(experiment.num_classes)).T


def bound_examples(
    experiment: Experiment,
    params: Params,
    keys_data: Key,
    keys_noise: Key,
    values: Array,
    labels: Array | None,
) -> elbo.Bound:
    """The bound of the reverse SDE on -log P of examples, in nats.

    Of the same points as `score_examples`; of models trained on centres, by the
    discretised decoder, without points. Of models trained by the hybrid loss, the bound
    of their chain.
    """
    settings, sde = experiment.likelihood, experiment.sde
    levels = experiment.dataset.num_levels
    decoder: elbo.Decoder = elbo.gaussian_decoder
    points = _points(experiment, params, keys_data, values)
    of_chain = experiment.loss.bound_weight > 0
    if of_chain or (settings.dequantisation == "truncated_normal" and levels):
        decoder = _decoder(experiment)
        x0 = data.centres(values, num_levels=levels)
        points = Dequantised(x0, jnp.zeros_like(points.log_density))
    cond = condition(experiment, labels)
    if of_chain:
        return elbo.chain_bound(
            keys_noise,
            denoiser(experiment, params),
            points.x,
            sigmas=jnp.asarray(experiment.chain, points.x.dtype),
            decoder=decoder,
            variance=learned_variance(experiment, params, cond),
            cond=cond,
        )
    bound = elbo.continuous_bound(
        keys_noise,
        denoiser(experiment, params),
        points.x,
        sigma_min=sde.sigma(sde.t_min),
        sigma_max=sde.sigma(sde.t_max),
        decoder=decoder,
        num_draws=settings.bound_draws,
        cond=cond,
    )
    return bound._replace(decoder=bound.decoder + points.log_density)


def _decoder(experiment: Experiment) -> elbo.Decoder:
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
