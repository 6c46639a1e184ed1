"""The model of a config: parameters become a denoiser, and what is made of one.

Everything here is a pure function of parameters and has touched no device; whoever
calls compiles it. Parameters are a dict: "network", what the objective and the points
learn beside it, and under "companions" those of the other runs that this one uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from score_sde import conditions, data, elbo
from score_sde.arrays import example_keys, per_example
from score_sde.conditions import Condition, Rows
from score_sde.dequantisation import (
    DEQUANTISERS,
    Dequantised,
    truncated_normal,
    variational,
)
from score_sde.flow_map import ANYWHERE, FlowMap, Reach, as_denoiser, make_jump
from score_sde.networks import Dequantiser, Network
from score_sde.networks.blocks import DIVERGENCE
from score_sde.precondition import (
    Precondition,
    make_denoiser,
    make_denoiser_with_variance,
)
from score_sde.sde import SDE
from score_sde.types import Array, Denoise, Key, Params

COMPANIONS = "companions"
"""Where parameters have those of other runs, by role."""


def as_points(params: Params, x: Array) -> Array:
    """The points themselves, of data that a model sees as they are shown."""
    del params
    return x


def as_shown(params: Params, x: Array, cond: Any) -> Array:
    """The points themselves, of data that are shown as a model sees them."""
    del params, cond
    return x


class Model(NamedTuple):
    """A network, and all that gives its output a meaning."""

    shape: tuple[int, ...]
    """The shape of one example."""
    num_levels: int | None
    """Grey levels of the data as rows hold them; None for points and latents."""
    num_labels: int
    """Classes of the labels that come with the data; 0 without labels."""
    sigma_data: float
    """Standard deviation of the scaled data."""
    points: str
    """How training turns levels into points: a name in `settings.POINTS`."""
    sde: SDE
    network: Network
    predicts_variance: bool
    """Whether the network's output has channels of variances behind those of x."""
    precondition: Precondition
    conditions: tuple[Condition, ...]
    """What the network is told of an example; none for an unconditional one."""
    chain: np.ndarray
    """The noise levels of the discrete chain, ascending."""
    shown_levels: int | None
    """Grey levels of samples as they are shown; of latents those of the images."""
    render: Callable[[Params, Array, Any], Array] = as_shown
    """(parameters, points, what they were told) -> points as they are shown: of latents
    the images, of details the picture that they make."""
    embed: Callable[[Params, Array], Array] = as_points
    """(parameters, points as they are shown) -> points: undoes `render`."""
    points_of_images: Callable[[Params, Key, Array], Dequantised] | None = None
    """(parameters, keys, stored images) -> latents, and what the likelihood of the
    images takes off their log-density; None for data that are no latents, or have an
    encoder without noise."""
    two_levels: bool = False
    """Whether the network is told where a jump ends."""
    learns_divergence: bool = False
    """Whether the network has the divergence of its jumps behind the channels of x."""
    reach: Callable[[], Reach] = lambda: ANYWHERE
    """Gives the jumps that it is trained for."""
    part: data.Part | None = None
    """How the examples are a part of the images that rows hold; None for the rows."""
    row_shape: tuple[int, ...] = ()
    """The shape of an example as rows hold it."""


def posterior_points(key: Key, x: Array, rows: Rows) -> Array:
    """Points drawn around x where the rows state deviations, as latents do.

    Args:
        key: one of the batch, or one per example.
        x: the means, [batch, *shape].
        rows: the examples; "std" are the standard deviations.
    """
    if "std" not in rows:
        return x
    noise = per_example(jr.normal, example_keys(key, len(x)), x)
    return x + rows["std"] * noise


def part_of_points(
    model: Model, points: Dequantised, cond: Any, *, told_of: Array | None = None
) -> tuple[Dequantised, Any]:
    """Take from points of the rows what the model is of, and what it is told of them.

    The density with which points were drawn in their bins is shared over the parts by
    their numbers.

    Args:
        model: of a config.
        points: of the rows.
        cond: what is told of the rows, whose entries of points are replaced.
        told_of: the points whose entries these are; None for the same.
    """
    told = conditions.of_points(
        model.conditions, points.x if told_of is None else told_of
    )
    cond = {**(cond or {}), **told} or None
    if model.part is None:
        return points, cond
    x = model.part.take(points.x)
    return Dequantised(x, share_of_part(model) * points.log_density), cond


def share_of_part(model: Model) -> float:
    """The share that the numbers of an example have in those of a row."""
    return math.prod(model.shape) / math.prod(model.row_shape)


def noise_of_rows(model: Model) -> Array:
    """The noise of the rows' numbers where that of the model's is t_min's, a scalar.

    It is larger where the model is of means over pixels.
    """
    noise = 1.0 if model.part is None else model.part.noise
    return model.sde.sigma(model.sde.t_min) / noise


def init_params(
    model: Model, seed: int, *, extra: Callable[[Key], Params] | None = None
) -> Params:
    """The initial parameters, a function of the seed.

    Args:
        model: whose network is initialised.
        seed: of the config.
        extra: key -> further entries, of what the objective learns.
    """
    key_network, key_extra = jr.split(jr.key(seed))
    params = {"network": model.network.init(key_network)}
    if model.points == "variational":
        key_flow = jr.fold_in(jr.key(seed), 2)
        params["dequantiser"] = Dequantiser.init(key_flow, model.shape)
    return params | (extra(key_extra) if extra else {})


def project_params(model: Model, params: Params) -> Params:
    """Bring parameters back to where training keeps them, by `Network.project`."""
    return params | {"network": model.network.project(params["network"])}


def network_fn(
    model: Model, params: Params, dropout_key: Key | None = None
) -> Callable[..., Array]:
    """The network with its parameters bound: (x, noise, cond) -> output."""
    own = params["network"]
    for role in model.network.companions:
        own = {**own, role: params[COMPANIONS][role]["network"]}
    return partial(model.network.apply, own, dropout_key=dropout_key)


def denoiser(
    model: Model, params: Params, *, dropout_key: Key | None = None
) -> Denoise:
    """The denoiser of the model with these parameters.

    Args:
        model: of a config.
        params: its parameters.
        dropout_key: of training; None for the deterministic network.

    Raises: ValueError for a student of few steps that is none.
    """
    if model.two_levels or model.reach() != ANYWHERE:
        return as_denoiser(jump(model, params, dropout_key=dropout_key))
    return make_denoiser(network_fn(model, params, dropout_key), model.precondition)


def jump(model: Model, params: Params, *, dropout_key: Key | None = None) -> FlowMap:
    """The jump G(x, sigma, sigma_next, cond) of the model, see `flow_map`.

    Args:
        model: of a config.
        params: its parameters.
        dropout_key: of training; None for the deterministic network.
    """
    network = network_fn(model, params, dropout_key)
    asked = {DIVERGENCE: None} if model.learns_divergence else {}

    def told(x: Array, noise: Array, ratio: Array, cond: Any) -> Array:
        return network(x, noise, {**(cond or {}), "ratio": ratio, **asked})

    return make_jump(
        told if model.two_levels else network,
        model.precondition,
        reach=model.reach(),
        sigma_data=model.sigma_data if model.learns_divergence else None,
    )


def denoiser_with_variance(
    model: Model, params: Params, *, dropout_key: Key | None = None
) -> Callable[..., tuple[Array, Array]]:
    """The denoiser that also returns the network's variances, see `precondition`."""
    return make_denoiser_with_variance(
        network_fn(model, params, dropout_key), model.precondition
    )


def reverse_chain(
    model: Model, params: Params, *, dropout_key: Key | None = None
) -> elbo.Reverse:
    """The steps of the discrete chain, for a network that predicts their variances."""
    return elbo.with_learned_variance(
        denoiser_with_variance(model, params, dropout_key=dropout_key)
    )


def decoder(model: Model) -> elbo.Decoder:
    """p(levels | x) at the lowest noise: the mass of a bin if the data are levels."""
    if model.num_levels is None:
        return elbo.gaussian_decoder
    return elbo.discretised_decoder(2 / model.num_levels)


def training_points(
    model: Model, key: Key, params: Params, values: Array
) -> Dequantised:
    """Examples as points, as the model is trained on them.

    Args:
        model: of a config.
        key: one of the batch, or one per example.
        params: with those of the flow, where points are variational.
        values: the examples as the data are stored, [batch, *shape].

    Returns:
        The points, and their log-density if a flow is trained with the network, else 0.
    """
    levels = model.num_levels
    if model.points == "variational":
        return points_of_flow(model, params, key, values)
    if model.points == "centres":
        x0 = data.centres(values, num_levels=levels)
    else:
        x0 = data.dequantise(key, values, num_levels=levels)
    return Dequantised(x0, jnp.zeros((), x0.dtype))


def trained_part(
    model: Model, key: Key, points: Dequantised, values: Array, cond: Any
) -> tuple[Dequantised, Any]:
    """Take from `training_points` what the model is of, and what it is told of them.

    A part of centres is told the coarse image of the point that it is scored at, which
    is noised like all its scores are at the lowest noise.

    Args:
        model: of a config.
        key: of that point; one of the batch, or one per example.
        points: of the rows.
        values: the examples as the data are stored, [batch, *shape].
        cond: what is told of the rows, whose entries of points are replaced.
    """
    told_of = None
    if model.part is not None and model.points == "centres":
        levels, sigma = model.num_levels, noise_of_rows(model)
        told_of = truncated_normal(key, values, num_levels=levels, sigma=sigma).x
    return part_of_points(model, points, cond, told_of=told_of)


def scoring_points(
    model: Model, params: Params, keys: Key, values: Array, *, dequantisation: str
) -> Dequantised:
    """Examples as points, as their likelihood is computed at them.

    Args:
        model: of a config.
        params: with those of the flow, if it is asked for.
        keys: one per example.
        values: the examples as the data are stored, [batch, *shape]; of latents that
            have a density, the images.
        dequantisation: a name in `dequantisation.DEQUANTISATIONS`.
    """
    if model.points_of_images is not None:
        return model.points_of_images(params, keys, values)
    if dequantisation == "variational":
        return points_of_flow(model, params, keys, values)
    return DEQUANTISERS[dequantisation](
        keys,
        values,
        num_levels=model.num_levels,
        sigma=noise_of_rows(model),
    )


def points_of_flow(
    model: Model, params: Params, keys: Key, values: Array
) -> Dequantised:
    """Points where the flow that is trained with the network puts them."""
    levels = model.num_levels
    assert levels is not None  # `Data.problems` refuses variational points of points
    flow = partial(Dequantiser.apply, params["dequantiser"])
    return variational(keys, values, num_levels=levels, flow=flow)


def with_companions(params: Params, companions: Mapping[str, Params]) -> Params:
    """Parameters that have those of other runs in their place."""
    return {**params, COMPANIONS: dict(companions)} if companions else params
