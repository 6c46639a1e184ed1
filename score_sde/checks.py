"""Checks of levels, times and starts; what is traced has no values and passes."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.arrays import as_float, is_traced, wide
from score_sde.types import Array, Grid, Level, Scalar


def check_level(sigma: Any, name: str = "sigma", *, positive: bool = False) -> None:
    """Refuse a known noise level that is none, such as a logarithm of one.

    Raises: ValueError for a negative one, for NaN, and for 0 if it must be positive.
    """
    if is_traced(sigma):
        return
    values = _known(sigma)
    wrong = values[~(values > 0 if positive else values >= 0)]
    if wrong.size:
        rule = "> 0" if positive else ">= 0"
        raise ValueError(f"{name} is {wrong.flat[0]:.6g}; it must be {rule}.")


def check_jump(sigma: Level, sigma_next: Level) -> None:
    """Refuse known levels between which nothing jumps.

    Raises: ValueError for a level that is none, and for a first one of 0.
    """
    check_level(sigma, positive=True)
    check_level(sigma_next, "sigma_next")


def check_time(t: Level, t_max: Scalar) -> None:
    """Refuse a known time that an SDE lacks, as the number of a step is; 0 is the data.

    Raises: ValueError.
    """
    if is_traced((t, t_max)):
        return
    values = _known(t)
    # It may have been computed in float32, from a noise level too.
    wrong = values[~((values >= 0) & (values <= float(t_max) * (1 + 1e-5)))]
    if wrong.size:
        raise ValueError(
            f"t is {wrong.flat[0]:.6g}; it must be from 0 to t_max = {t_max}."
        )


def warn_without_noise(x: Array | np.ndarray, level: Scalar | Grid) -> None:
    """Warn of an x that lacks the noise it should hold, such as draws from N(0, 1).

    Nothing is said of few numbers, nor where x or the level is traced.

    Args:
        x: where a sampler or a solver begins.
        level: the standard deviation of the noise in x, or a grid that begins there.
    """
    if is_traced((x, level)) or not getattr(x, "is_fully_addressable", True):
        return
    with jax.ensure_compile_time_eval():
        x, wanted = as_float(x), float(np.ravel(level)[0])
        x = x.astype(wide(x.dtype))
        size = float(jnp.sqrt(jnp.mean(x * x))) if x.size >= ENOUGH else wanted
    if size < wanted / 10:
        warnings.warn(
            f"x has a root mean square of {size:.3g} at noise level {wanted:.4g}: it "
            "should hold noise of that standard deviation, so many times a draw from "
            "N(0, 1), as `prior_sample` makes it.",
            stacklevel=3,
        )


def _known(values: Any) -> np.ndarray:
    """Numbers as NumPy's: in `jit` JAX would trace the conversion of what it knows.

    Raises: ValueError for complex numbers.
    """
    with jax.ensure_compile_time_eval():
        return np.asarray(as_float(values), np.float64)


ENOUGH = 64
"""Numbers whose root mean square is that of their law within a quarter or so."""
