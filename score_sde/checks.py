"""Checks of levels, times and starts; what is traced has no values and passes."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
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


def check_grid(sigmas: Grid) -> None:
    """Refuse levels that are no grid: one that turns or rises has no steps down.

    Raises: ValueError for what is no row of two levels or more and, unless they are
        traced, for levels that don't decrease, are negative or not finite.
    """
    shape = sigmas.shape if is_traced(sigmas) else np.shape(sigmas)
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(f"sigmas must be one row of at least two, got shape {shape}.")
    if is_traced(sigmas):
        return
    values = _known(sigmas)
    if not (np.isfinite(values).all() and (np.diff(values) < 0).all()):
        raise ValueError(f"sigmas must be finite and decrease, got {values}.")
    if values[-1] < 0:
        raise ValueError(f"sigmas must not be negative, got {values[-1]}.")


def check_rising(sigmas: Any, name: str = "sigmas") -> None:
    """Refuse levels that are no chain, or no two ends: from above 0, each higher.

    Raises: ValueError for known levels that are not positive, finite and rising.
    """
    if is_traced(sigmas):
        return
    values = _known(sigmas)
    is_rising = values.ndim == 1 and values.size and (np.diff(values) > 0).all()
    if not (is_rising and values[0] > 0 and np.isfinite(values).all()):
        raise ValueError(f"{name} must be finite, above 0 and rise, got {values}.")


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
            stacklevel=_levels_to_caller(),
        )


def known_values(values: Any) -> np.ndarray | None:
    """Numbers of any type as NumPy's; None where they are traced, or are no numbers.

    An option may be a float, one of NumPy's or an array: 0 is 0 in all of them. While
    JAX rearranges a pytree, its fields hold other things.
    """
    is_number = isinstance(values, (int, float, np.number, np.ndarray, jax.Array))
    if not is_number or is_traced(values):
        return None
    return np.asarray(values, np.float64)


def _levels_to_caller() -> int:
    """Count the frames from whoever warns to the first that is not of this package.

    A function of the package may be called through decorators, or by another one; what
    is to be mended is where the user calls.
    """
    frame, levels = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, levels = frame.f_back, levels + 1
    return levels


def _known(values: Any) -> np.ndarray:
    """Numbers as NumPy's: in `jit` JAX would trace the conversion of what it knows.

    Raises: ValueError for complex numbers.
    """
    with jax.ensure_compile_time_eval():
        return np.asarray(as_float(values), np.float64)


PACKAGE = f"{Path(__file__).parent}{os.sep}"
"""Where the files of this package are."""
ENOUGH = 64
"""Numbers whose root mean square is that of their law within a quarter or so."""
