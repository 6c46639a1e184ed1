"""Divergences of a drift: the trace of its Jacobian, exact or estimated by probes."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from score_sde.arrays import as_float, in_one_piece, matmul, wide
from score_sde.types import Array, Key, Level, Scalar

Drift = Callable[[Array], Array]
Divergence = Callable[[Drift, Array, Key | None], tuple[Array, Array]]
"""(drift, x, key) -> (drift at x, estimates of the trace of its Jacobian).

All are of one example. The estimates, [num_probes], are independent and each unbiased;
a single one is the trace itself or has no error that is known. More probes than the
default are bound by `functools.partial(hutchinson, num_probes=8)`.
"""


def exact(drift: Drift, x: Array, key: Key | None) -> tuple[Array, Array]:
    """Compute the trace by one tangent per dimension: num_dims times the work."""
    del key
    basis = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
    value, columns = _tangents(drift, x, basis)
    return value, jnp.trace(columns.reshape(x.size, x.size))[None]


def hutchinson(
    drift: Drift, x: Array, key: Key | None, *, num_probes: int = 1
) -> tuple[Array, Array]:
    """Estimate the trace by v . J v with v of random signs (Hutchinson 1989)."""
    return _probed(drift, x, _probes(jr.rademacher, key, x, num_probes))


def hutchinson_gaussian(
    drift: Drift, x: Array, key: Key | None, *, num_probes: int = 1
) -> tuple[Array, Array]:
    """Estimate the trace by v . J v with v standard normal; its variance is larger."""
    return _probed(drift, x, _probes(jr.normal, key, x, num_probes))


def hutchinson_sphere(
    drift: Drift, x: Array, key: Key | None, *, num_probes: int = 1
) -> tuple[Array, Array]:
    """Estimate the trace by v . J v, v uniform on the sphere of radius sqrt(num_dims).

    It is a normal probe without the noise of its length.
    """
    v = _probes(jr.normal, key, x, num_probes)
    length = jnp.sqrt((v**2).sum(tuple(range(1, v.ndim)), keepdims=True))
    return _probed(drift, x, math.sqrt(x.size) * v / length)


def hierarchical(
    drift: Drift, x: Array, key: Key | None, *, num_probes: int = 1
) -> tuple[Array, Array]:
    """Estimate the trace by signs that differ between neighbours (Stathopoulos 2013).

    Random signs are multiplied by rows of a Hadamard matrix, one for each of num_probes
    colours of the positions, so that the mean over all of them, one estimate, holds no
    element of J between two colours: near positions, where J is large, have different
    ones. With a colour for every position the trace is exact; with one it is
    `hutchinson`.

    Raises: ValueError if num_probes is no power of two.
    """
    if not is_power_of_two(num_probes):
        raise ValueError(
            f"num_probes is {num_probes}; hierarchical probes are a power of two."
        )
    places = np.arange(num_probes).reshape(-1, *[1] * x.ndim) & colours(x.shape)
    signs = 1 - 2 * (np.bitwise_count(places) % 2).astype(np.int8)
    v = _probes(jr.rademacher, key, x, 1) * jnp.asarray(signs, x.dtype)
    value, traces = _probed(drift, x, v)
    return value, traces.mean(keepdims=True)


def is_power_of_two(number: int) -> bool:
    """Whether there is a Hadamard matrix of this size by doubling: 1, 2, 4, 8, ..."""
    return number > 0 and number & (number - 1) == 0


def colours(dims: tuple[int, ...]) -> np.ndarray:
    """Number the positions of an array so that near ones differ in low bits.

    From the lowest bit: the parity of the sum of all coordinates, each coordinate's but
    the last one's, and so on with all coordinates halved. Every position has a number
    of its own.
    """
    code, place = np.zeros(dims, np.int64), 0
    at = [axis for axis in np.indices(dims) if axis.size and axis.max()]
    while at:
        for bit in [sum(at), *at[:-1]]:
            code |= (bit & 1) << place
            place += 1
        at = [axis >> 1 for axis in at if axis.max() > 1]
    return code


def hutch_plus_plus(
    drift: Drift, x: Array, key: Key | None, *, num_probes: int = 1
) -> tuple[Array, Array]:
    """Estimate the trace by Hutch++: exact on a sketch, probes beyond (Meyer 2021).

    With Q an orthonormal basis of J S, S of num_probes random signs, the trace is
    tr(Q' J Q) and that of the projection on the complement, which is probed:
    3 num_probes tangents, and a variance that falls as num_probes^-2.
    """
    assert key is not None
    key_sketch, key_rest = jr.split(key)
    value, jacobian = jax.linearize(drift, x)

    def times_jacobian(rows: Array) -> Array:
        images = jax.vmap(jacobian)(rows.reshape(-1, *x.shape))
        return images.reshape(rows.shape)

    sketch, rest = (
        _probes(jr.rademacher, k, x, num_probes).reshape(num_probes, x.size)
        for k in (key_sketch, key_rest)
    )
    basis = jnp.linalg.qr(times_jacobian(sketch).T)[0].T
    within = (basis * times_jacobian(basis)).sum()
    rest = rest - matmul(matmul(rest, basis.T), basis)
    # The probes are projected already, so that v J v needs no second projection.
    return value, within + (rest * times_jacobian(rest)).sum(1)


def _probes(
    draw: Callable[..., Array], key: Key | None, x: Array, num_probes: int
) -> Array:
    """Draw random probes, [num_probes, *dims]."""
    assert key is not None
    return in_one_piece(draw, key, (num_probes, *x.shape), x.dtype)


def _probed(drift: Drift, x: Array, v: Array) -> tuple[Array, Array]:
    """The drift, and v . J v of each probe."""
    value, tangents = _tangents(drift, x, v)
    return value, (v * tangents).reshape(len(v), -1).sum(1)


def _tangents(drift: Drift, x: Array, v: Array) -> tuple[Array, Array]:
    """(drift at x, its Jacobian times each of v, [num_probes, *dims])."""
    return jax.vmap(lambda v: jax.jvp(drift, (x,), (v,)), out_axes=(None, 0))(v)


DIVERGENCES: dict[str, Callable[..., tuple[Array, Array]]] = {
    "exact": exact,
    "hutchinson": hutchinson,
    "hutchinson_gaussian": hutchinson_gaussian,
    "hutchinson_sphere": hutchinson_sphere,
    "hutch_plus_plus": hutch_plus_plus,
    "hierarchical": hierarchical,
}


def gaussian_divergence(
    sigma: Level, sigma_next: Level, *, sigma_data: Scalar
) -> Float[Array, "*batch"]:
    """Divergence Q of the jumps of a Gaussian with standard deviation sigma_data.

    Half of log((sigma_data^2 + sigma_next^2)/(sigma_data^2 + sigma^2)), over
    log(sigma_next/sigma); sigma^2/(sigma_data^2 + sigma^2) where the levels are equal.
    It is the same in both directions.

    Args:
        sigma: a scalar or [batch], positive.
        sigma_next: likewise.
        sigma_data: of every coordinate.
    """
    wider = wide(jnp.result_type(as_float(sigma), as_float(sigma_next)))
    levels = [jnp.asarray(s, wider) for s in (sigma, sigma_next)]
    low, high = jnp.minimum(*levels), jnp.maximum(*levels)
    share = low**2 / (sigma_data**2 + low**2)
    apart = jnp.log(high / low)
    # Without the difference of two logarithms, which would cancel for near levels.
    way = jnp.where(apart > 0, apart, 1)
    mean = 0.5 * jnp.log1p(share * jnp.expm1(2 * way)) / way
    return jnp.where(apart > 0, mean, share)
