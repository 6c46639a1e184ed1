"""Flow maps: the denoiser's relatives with two noise levels.

The probability flow dx/dsigma = (x - D(x, sigma))/sigma carries x from level sigma to
s. Its flow map X(x; sigma -> s) is written by a *jump denoiser* G, the denoiser with
which one Euler step would be exact (Kim et al. 2024, eq. 9, in this form):

    X(x; sigma -> s) = x + (s/sigma - 1)(x - G(x, sigma, s))

G(x, sigma, sigma) is the denoiser D(x, sigma), and G(x, sigma, 0) the end of the flow,
which a consistency model is trained to give. A denoiser serves as a jump that ignores
s: its X is then the step of DDIM.

The same map in other coordinates: on the straight line z = (1 - t) x0 + t eps, where
sigma = t/(1 - t), the average velocity is (z - G)/t whatever the second time; on the
circle y = cos(t) x, where sigma = sigma_data tan(t), the network of TrigFlow is
(cos(t) y - G)/(sigma_data sin(t)) (Lu and Song 2025).

A jump may also know its *divergence* Q: that of the flow x - D, a dimension, on average
over log sigma on the way, up or down. Since d log p/dlog sigma = -div(x - D) along it,

    log p_sigma(x) = log p_s(X) + dims Q(x, sigma, s) log(s/sigma)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from score_sde.arrays import (
    as_float,
    check_alike,
    expand_like,
    is_traced,
    mean_over_data,
    wide,
)
from score_sde.checks import check_jump, check_level
from score_sde.divergences import gaussian_divergence
from score_sde.precondition import Precondition, coefficients
from score_sde.types import Array, Denoise, Grid, Jump, Level, Points


class Reach(NamedTuple):
    """The jumps that a model was trained for: which levels, how far, and which way.

    `ANYWHERE` also holds sigma_next = sigma, where the jump is the denoiser.
    """

    levels: tuple[float, ...] | None = None
    """Levels between which it jumps, in the order of its jumps; None for all levels."""
    to: str = "any"
    """A word of `TARGETS`: any of the levels, 0 alone, or the next of the levels."""
    way: str = "down"
    """A word of `WAYS`: to lower levels, as samples need it, to higher ones, as a
    likelihood does, or both."""

    @property
    def is_everywhere(self) -> bool:
        """Whether no jump is left out, so that the model is a denoiser too."""
        return self.levels is None and self.to == "any"

    def problem(self, pairs: Float[np.ndarray, "jumps 2"]) -> str | None:
        """Say why the model can't make these jumps, (sigma, sigma_next); else None."""
        pairs = np.asarray(pairs, np.float64)
        wrong = {"down": np.less, "up": np.greater}.get(self.way)
        if wrong is not None and (against := wrong(pairs[:, 0], pairs[:, 1])).any():
            sigma, sigma_next = pairs[against][0]
            where = "lower" if self.way == "down" else "higher"
            return f"it jumps to {where} levels alone, not {sigma:g} to {sigma_next:g}"
        if self.to == "zero" and (pairs[:, 1] > 0).any():
            worst = pairs[pairs[:, 1] > 0][0]
            return f"it jumps to level 0 alone, not from {worst[0]:g} to {worst[1]:g}"
        if self.levels is None:
            return None
        known = np.asarray(self.levels, np.float64)
        places = np.abs(pairs[..., None] - known).argmin(-1)
        off = ~np.isclose(pairs, known[places], rtol=1e-4, atol=1e-7).all(1)
        if self.to == "next":
            off |= places[:, 1] != places[:, 0] + 1
        if not off.any():
            return None
        sigma, sigma_next = pairs[off][0]
        how = "from one to the next of" if self.to == "next" else "between"
        listed = ", ".join(f"{level:.4g}" for level in self.levels)
        return f"it jumps {how} the levels {listed}, not {sigma:g} to {sigma_next:g}"


ANYWHERE = Reach()
TO_ZERO = Reach(to="zero")
TARGETS = ("any", "zero", "next")
WAYS = ("down", "up", "both")
WithDivergence = Callable[..., tuple[Array, Array]]
"""(x, sigma, sigma_next, cond) -> (G, the divergence Q of the jump, [batch])."""


class FlowMap:
    """A jump G(x, sigma, sigma_next, cond=None) that says which jumps it was made for.

    Args:
        function: the jump itself.
        reach: of the jumps; `TO_ZERO` for a consistency model, which is no denoiser.
        with_divergence: the jump together with its divergence, in one evaluation; None
            for a model that has not learned it.
    """

    def __init__(
        self,
        function: Jump,
        reach: Reach = ANYWHERE,
        with_divergence: WithDivergence | None = None,
    ):
        self.function, self.reach = function, reach
        self.with_divergence = with_divergence

    def __call__(
        self, x: Points, sigma: Level, sigma_next: Level, cond: Any = None
    ) -> Float[Array, "batch *dims"]:
        if sigma_next is None or isinstance(sigma_next, dict):
            raise ValueError(
                "a flow map is called with two levels, G(x, sigma, sigma_next, cond): "
                "flow_map.as_denoiser makes the denoiser of it."
            )
        return self.function(x, sigma, sigma_next, cond)


def make_jump(
    network_fn: Callable[..., Array],
    precondition: Precondition,
    *,
    reach: Reach = ANYWHERE,
    sigma_data: float | None = None,
) -> FlowMap:
    """Make the jump G(x, sigma, sigma_next, cond) of a network.

    G = skip x + out F, with the coefficients of the first level, so that X is x at
    sigma_next = sigma whatever the network is. The divergence is written by a number h
    of the network, 1 - Q = m (1 + h), where 1 - m is that of a Gaussian with standard
    deviation sigma_data (`gaussian_divergence`).

    Args:
        network_fn: (x, noise, ratio, cond) -> raw output, where ratio, [batch], is
            sigma_next / sigma; or (x, noise, cond), of one not told the second level.
        precondition: a function of `precondition` with its options bound.
        reach: the jumps that it was trained for.
        sigma_data: standard deviation of the data, for a network that knows the
            divergence too: h is the mean of the last channel of its output, behind
            those of x. None for a network that does not.

    Raises: ValueError, when called, for an output of another shape.
    """
    is_told = num_arguments(network_fn) > 3 or "ratio" in _names(network_fn)

    def evaluate(
        x: Points, sigma: Level, sigma_next: Level, cond: Any
    ) -> tuple[Array, Array]:
        """(G, the network's output)."""
        check_level(sigma_next, "sigma_next")
        x, c = coefficients(precondition, x, sigma)
        skip, out, in_ = (expand_like(a, x) for a in (c.skip, c.out, c.in_))
        told = (c.noise, _ratio(x, sigma, sigma_next)) if is_told else (c.noise,)
        raw = network_fn(in_ * x, *told, cond)
        own = check_alike("the network's output", raw[..., : x.shape[-1]], x)
        return skip * x + out * own, raw

    def jump(x: Points, sigma: Level, sigma_next: Level, cond: Any = None) -> Array:
        return evaluate(x, sigma, sigma_next, cond)[0]

    def with_divergence(
        x: Points, sigma: Level, sigma_next: Level, cond: Any = None
    ) -> tuple[Float[Array, "batch *dims"], Float[Array, " batch"]]:
        target, raw = evaluate(x, sigma, sigma_next, cond)
        if raw.shape[-1] <= target.shape[-1]:
            raise ValueError(
                "the network's output has no channel of the divergence behind the "
                f"{target.shape[-1]} of x."
            )
        h = mean_over_data(raw[..., -1:])
        scale = cast(float, sigma_data)
        base = gaussian_divergence(sigma, sigma_next, sigma_data=scale)
        share = jnp.broadcast_to(1 - base, h.shape).astype(h.dtype)
        return target, 1 - share * (1 + h)

    return FlowMap(jump, reach, None if sigma_data is None else with_divergence)


def _ratio(x: Array, sigma: Level, sigma_next: Level) -> Float[Array, " batch"]:
    """sigma_next / sigma of each example; 1 where both are 0."""
    wider = wide(x.dtype)
    levels = (jnp.asarray(s, wider) for s in (sigma, sigma_next))
    high, low = (jnp.broadcast_to(s, x.shape[:1]) for s in levels)
    ratio = low / jnp.where(high > 0, high, 1)
    return jnp.where(high > 0, ratio, 1).astype(x.dtype)


def is_jump(model: Denoise | Jump) -> TypeGuard[Jump]:
    """Whether a model is called with two levels: its third argument is `sigma_next`,
    or it takes four.
    """
    return num_arguments(model) > 3 or "sigma_next" in _names(model)


def as_jump(model: Denoise | Jump) -> FlowMap:
    """The jump that a model is; a denoiser is one that ignores the second level."""
    if isinstance(model, FlowMap):
        return model
    if is_jump(model):
        return FlowMap(model)
    denoise = cast(Denoise, model)
    return FlowMap(lambda x, sigma, sigma_next, cond=None: denoise(x, sigma, cond))


def as_denoiser(model: Denoise | Jump) -> Denoise:
    """The denoiser D(x, sigma, cond) that a model is, G on its diagonal.

    Raises: ValueError for a flow map that was not trained there.
    """
    if not is_jump(model):
        return cast(Denoise, model)
    if not reach_of(model).is_everywhere:
        raise ValueError(
            "this model is no denoiser, but a student of few steps: draw its samples "
            "by sampler 'jump' or 'consistency'; its likelihood, and guidance of it, "
            "need the model that it was made from."
        )
    return lambda x, sigma, cond=None: model(x, sigma, sigma, cond)


def reach_of(model: Denoise | Jump) -> Reach:
    """The jumps that a model was made for; of any other function, all."""
    return getattr(model, "reach", ANYWHERE)


def needs_divergence(model: Denoise | Jump) -> WithDivergence:
    """The jump of a model together with its divergence.

    Raises: ValueError for a model that has not learned it.
    """
    known = getattr(model, "with_divergence", None)
    if known is None:
        raise ValueError(
            "this model has not learned the divergence of its jumps, which a "
            "likelihood in a few steps needs: `log_prob` takes a denoiser."
        )
    return known


def check_jumps(model: Denoise | Jump, sigmas: Grid, *, to_zero: bool = False) -> None:
    """Refuse a grid whose jumps a model was not made for, unless it is traced.

    Args:
        model: whose jumps they are.
        sigmas: a grid; a jump leads from each level to the next.
        to_zero: whether each jump leads to 0 instead.

    Raises: ValueError.
    """
    if is_traced(sigmas):
        return
    levels = np.asarray(sigmas, np.float64)
    pairs = np.stack([levels[:-1], levels[1:] * (not to_zero)], axis=1)
    if text := reach_of(model).problem(pairs):
        raise ValueError(f"this model can't take these steps: {text}.")


def carry(
    jump: Denoise | Jump, x: Points, sigma: Level, sigma_next: Level, cond: Any = None
) -> Float[Array, "batch *dims"]:
    """Carry x from level sigma to sigma_next by the flow map X of a jump.

    Args:
        jump: or a denoiser, whose X is one Euler step.
        x: [batch, *dims], at level sigma.
        sigma: a scalar or [batch], positive.
        sigma_next: a scalar or [batch], at least 0; other levels are refused.
        cond: the condition, or None.
    """
    check_jump(sigma, sigma_next)
    x = as_float(x)
    return _moved(x, as_jump(jump)(x, sigma, sigma_next, cond), sigma, sigma_next)


def _moved(x: Array, target: Array, sigma: Level, sigma_next: Level) -> Array:
    """x + (sigma_next/sigma - 1)(x - target)."""
    wider = wide(x.dtype)
    share = jnp.asarray(sigma_next, wider) / jnp.asarray(sigma, wider) - 1
    return x + expand_like(share, x) * (x - target)


def carry_density(
    jump: Denoise | Jump, x: Points, sigma: Level, sigma_next: Level, cond: Any = None
) -> tuple[Float[Array, "batch *dims"], Float[Array, " batch"]]:
    """Carry x from level sigma to sigma_next, and its log-density along.

    Args:
        jump: that has learned its divergence.
        x: [batch, *dims], at level sigma.
        sigma: a scalar or [batch], positive.
        sigma_next: likewise.
        cond: the condition, or None.

    Returns:
        X, and (log p(x) - log p(X)) / dims in nats, Q log(sigma_next/sigma).

    Raises: ValueError for a jump that has not, and for levels that are none.
    """
    check_jump(sigma, sigma_next)
    x, wider = as_float(x), wide(as_float(x).dtype)
    target, divergence = needs_divergence(jump)(x, sigma, sigma_next, cond)
    ratio = jnp.asarray(sigma_next, wider) / jnp.asarray(sigma, wider)
    gained = divergence * jnp.log(ratio).astype(divergence.dtype)
    return _moved(x, target, sigma, sigma_next), gained


def jump_between(
    x: Points, x_next: Points, sigma: Level, sigma_next: Level
) -> Float[Array, "batch *dims"]:
    """The value of G whose jump carries x to x_next: what a jump is trained towards.

    Args:
        x: [batch, *dims], at level sigma.
        x_next: where the flow is at sigma_next.
        sigma: a scalar or [batch], positive.
        sigma_next: a scalar or [batch], not sigma itself, where any G would do.
    """
    check_jump(sigma, sigma_next)
    x, wider = as_float(x), wide(as_float(x).dtype)
    sigma, sigma_next = jnp.asarray(sigma, wider), jnp.asarray(sigma_next, wider)
    return x + expand_like(1 / (1 - sigma_next / sigma), x) * (x_next - x)


def num_arguments(function: Callable[..., Any]) -> int:
    """Count the arguments that a function takes by place; 0 where nobody can say."""
    return len(_names(function))


def _names(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    by_place = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    return [p.name for p in parameters if p.kind in by_place]
