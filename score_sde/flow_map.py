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
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from score_sde.arrays import as_float, check_alike, expand_like, is_traced, wide
from score_sde.precondition import Precondition, coefficients
from score_sde.types import Array, Denoise, Grid, Jump, Level, Points


class Reach(NamedTuple):
    """The jumps that a model was trained for: which levels, and how far.

    `ANYWHERE` also holds sigma_next = sigma, where the jump is the denoiser.
    """

    levels: tuple[float, ...] | None = None
    """Decreasing levels between which it jumps; None for all levels."""
    to: str = "any"
    """A word of `TARGETS`: any lower level, 0 alone, or the next of the levels."""

    @property
    def is_everywhere(self) -> bool:
        """Whether no jump is left out, so that the model is a denoiser too."""
        return self.levels is None and self.to == "any"

    def problem(self, pairs: Float[np.ndarray, "jumps 2"]) -> str | None:
        """Say why the model can't make these jumps, (sigma, sigma_next); else None."""
        pairs = np.asarray(pairs, np.float64)
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


class FlowMap:
    """A jump G(x, sigma, sigma_next, cond=None) that says which jumps it was made for.

    Args:
        function: the jump itself.
        reach: of the jumps; `TO_ZERO` for a consistency model, which is no denoiser.
    """

    def __init__(self, function: Jump, reach: Reach = ANYWHERE):
        self.function, self.reach = function, reach

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
) -> FlowMap:
    """Make the jump G(x, sigma, sigma_next, cond) of a network.

    G = skip x + out F, with the coefficients of the first level, so that X is x at
    sigma_next = sigma whatever the network is.

    Args:
        network_fn: (x, noise, ratio, cond) -> raw output, where ratio, [batch], is
            sigma_next / sigma in [0, 1]; or (x, noise, cond), a network that is not
            told the second level.
        precondition: a function of `precondition` with its options bound.
        reach: the jumps that it was trained for.

    Raises: ValueError, when called, for an output of another shape.
    """
    is_told = num_arguments(network_fn) > 3 or "ratio" in _names(network_fn)

    def jump(
        x: Points, sigma: Level, sigma_next: Level, cond: Any = None
    ) -> Float[Array, "batch *dims"]:
        x, c = coefficients(precondition, x, sigma)
        skip, out, in_ = (expand_like(a, x) for a in (c.skip, c.out, c.in_))
        told = (c.noise, _ratio(x, sigma, sigma_next)) if is_told else (c.noise,)
        raw = network_fn(in_ * x, *told, cond)[..., : x.shape[-1]]
        return skip * x + out * check_alike("the network's output", raw, x)

    return FlowMap(jump, reach)


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
    if isinstance(model, FlowMap):
        return True
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
    return model.reach if isinstance(model, FlowMap) else ANYWHERE


def check_jumps(model: Denoise | Jump, sigmas: Grid, *, to_zero: bool = False) -> None:
    """Refuse a grid whose jumps a model was not made for, unless it is traced.

    Args:
        model: whose jumps they are.
        sigmas: a decreasing grid; a jump leads from each level to the next.
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
        sigma_next: a scalar or [batch].
        cond: the condition, or None.
    """
    x = as_float(x)
    wider = wide(x.dtype)
    sigma, sigma_next = jnp.asarray(sigma, wider), jnp.asarray(sigma_next, wider)
    target = as_jump(jump)(x, sigma, sigma_next, cond)
    return x + expand_like(sigma_next / sigma - 1, x) * (x - target)


def jump_between(
    x: Points, x_next: Points, sigma: Level, sigma_next: Level
) -> Float[Array, "batch *dims"]:
    """The value of G whose jump carries x to x_next: what a jump is trained towards.

    Args:
        x: [batch, *dims], at level sigma.
        x_next: where the flow is at sigma_next.
        sigma: a scalar or [batch], positive.
        sigma_next: a scalar or [batch], below sigma: at sigma itself any G would do.
    """
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
