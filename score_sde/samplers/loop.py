"""The one loop: fold a sampler's step over a grid of noise levels."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from score_sde.arrays import example_keys, per_example
from score_sde.samplers.ancestral import EulerAncestral
from score_sde.samplers.edm import Euler, Heun
from score_sde.samplers.steps import Draw, Interval, Sampler
from score_sde.types import Array, Denoise, Key

SAMPLERS: dict[str, type[Sampler]] = {
    "euler": Euler,
    "heun": Heun,
    "edm": Heun,
    "euler_ancestral": EulerAncestral,
}


class SampleResult(NamedTuple):
    """The sample, and what it cost."""

    x: Array
    """[batch, *dims], at the last noise level."""
    num_evals: Array
    """Calls of the denoiser, each on the whole batch."""
    path: Array | None
    """[num_steps + 1, batch, *dims], the start included, if it was asked for."""


def sample(
    sampler: str | Sampler,
    denoise: Denoise,
    x: Array,
    sigmas: Array,
    *,
    key: Key | None = None,
    noise: Array | None = None,
    cond: Any = None,
    return_path: bool = False,
) -> SampleResult:
    """Carry x from noise level sigmas[0] down to sigmas[-1].

    Works under jit, vmap and grad and on a sharded batch; wrap it in `jax.jit` when
    it is called more than once.

    Args:
        sampler: a name of `SAMPLERS`, or one with options, as in
            `SAMPLERS["heun"](s_churn=40.0)`.
        x: [batch, *dims], noise of standard deviation sigmas[0] around the data.
        sigmas: strictly decreasing, usually from `grids`; the last may be 0.
        key: for samplers that add noise. The noise of example i is a function of
            (key, step, i), so that a sample doesn't depend on its batch; keys may
            also be given one per example, shape [batch].
        noise: [draws, batch, *dims], used instead of a key: the k-th draw of the
            algorithm is noise[k].
    Raises: ValueError for an unknown name, a grid that does not decrease, and a
        stochastic sampler without key or noise.
    """
    sampler = _named(sampler)
    sigmas = _checked(sigmas, x)
    if sampler.stochastic and key is None and noise is None:
        raise ValueError(f"{sampler} adds noise: give it a key, or the noise itself.")
    keys = None if key is None else example_keys(key, x.shape[0])

    def draws_of(step: Array) -> Draw:
        def draw(k: int) -> Array:
            index = step * sampler.num_draws + k
            if noise is not None:
                # The last step asks for a draw only to multiply it by zero.
                last = min(noise.shape[0], (len(sigmas) - 1) * sampler.num_draws) - 1
                return jnp.asarray(noise)[jnp.minimum(index, last)].astype(x.dtype)
            return per_example(
                jr.normal, jax.vmap(lambda key: jr.fold_in(key, index))(keys), x
            )

        return draw

    def body(x: Array, step: Array) -> tuple[Array, Array | None]:
        at = Interval(sigmas[step], sigmas[step + 1], len(sigmas) - 1)
        x = sampler.step(lambda x, s: denoise(x, s, cond), x, at, draws_of(step))
        return x, x if return_path else None

    last, path = jax.lax.scan(body, x, jnp.arange(len(sigmas) - 1))
    if path is not None:
        path = jnp.concatenate([x[None], path])
    return SampleResult(last, sampler.num_evals(sigmas), path)


def _named(sampler: str | Sampler) -> Sampler:
    if not isinstance(sampler, str):
        return sampler
    if sampler not in SAMPLERS:
        raise ValueError(
            f"unknown sampler {sampler!r}; choose from {sorted(SAMPLERS)}."
        )
    return SAMPLERS[sampler]()


def _checked(sigmas: Array, x: Array) -> Array:
    if not isinstance(sigmas, jax.core.Tracer):
        values = np.asarray(sigmas, np.float64)
        if values.ndim != 1 or len(values) < 2:
            raise ValueError(
                f"sigmas must be one row of at least two, got shape {values.shape}."
            )
        if not (np.isfinite(values).all() and (np.diff(values) < 0).all()):
            raise ValueError(f"sigmas must be finite and decrease, got {values}.")
        if values[-1] < 0:
            raise ValueError(f"sigmas must not be negative, got {values[-1]}.")
    return jnp.asarray(sigmas, x.dtype)
