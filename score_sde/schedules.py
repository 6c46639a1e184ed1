"""Discrete chains: their betas, their noise levels, and the timesteps to visit.

    abar_t = prod_(s <= t) (1 - beta_s)          sigma_t^2 = (1 - abar_t) / abar_t

A chain of `num_train_timesteps` steps is a table, made on the host in float64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Annotated

import numpy as np

from score_sde.fields import checks_rules
from score_sde.rules import Positive, at_least, each, one_of


def linear(
    num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02
) -> np.ndarray:
    """Betas evenly spaced (Ho et al. 2020, sec. 4)."""
    return np.linspace(beta_start, beta_end, num_train_timesteps)


def scaled_linear(
    num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02
) -> np.ndarray:
    """Betas evenly spaced in sqrt(beta) (Rombach et al. 2022)."""
    ends = math.sqrt(beta_start), math.sqrt(beta_end)
    return np.linspace(*ends, num_train_timesteps) ** 2


def cosine(
    num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02
) -> np.ndarray:
    """Betas whose abar follows the cosine schedule cos^2(pi/2 (u + s) / (1 + s)).

    u goes from 0 to 1, and s = 0.008. Betas are clipped at 0.999, so that abar of the
    chain, the product of its 1 - beta, is not quite the cosine (Nichol and Dhariwal
    2021, eq. 17). The ends are not used.
    """
    del beta_start, beta_end
    u = np.arange(num_train_timesteps + 1) / num_train_timesteps
    abar = np.cos(0.5 * math.pi * (u + 0.008) / 1.008) ** 2
    return np.minimum(1 - abar[1:] / abar[:-1], 0.999)


def sigmoid(
    num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02
) -> np.ndarray:
    """Betas that rise along a sigmoid on [-6, 6] (Xu et al. 2022)."""
    ramp = 1 / (1 + np.exp(-np.linspace(-6, 6, num_train_timesteps)))
    return ramp * (beta_end - beta_start) + beta_start


def laplace(
    num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02
) -> np.ndarray:
    """Betas whose log signal-to-noise ratio has a Laplace distribution (Hang 2024).

    l(u) = -b sgn(1/2 - u) log(1 - 2 |1/2 - u| + 1e-6), b = 1/2, u from 0 to 1, as
    diffusers has it: there abar is the root of e^l / (1 + e^l), where the paper has
    that itself. Betas are clipped at 0.999. The ends are not used.
    """
    del beta_start, beta_end
    u = np.arange(num_train_timesteps + 1) / num_train_timesteps
    side = np.copysign(1.0, 0.5 - u)
    log_snr = -0.5 * side * np.log(1 - 2 * np.abs(0.5 - u) + 1e-6)
    abar = np.sqrt(1 / (1 + np.exp(-log_snr)))
    return np.minimum(1 - abar[1:] / abar[:-1], 0.999)


BETA_SCHEDULES: dict[str, Callable[..., np.ndarray]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "laplace": laplace,
}


def without_terminal_signal(betas: np.ndarray) -> np.ndarray:
    """Shift and scale a chain so that nothing of the data is left at its end.

    sqrt(abar) is moved to 0 at the end and scaled to what it was at the beginning (Lin
    et al. 2023, alg. 1). The last beta is 1. A network that predicts noise tells
    nothing of the data there: it is for those that predict v or x0.
    """
    root = np.sqrt(alphas_cumprod(betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    abar = root**2
    return 1 - np.concatenate([abar[:1], abar[1:] / abar[:-1]])


HIGHEST = 4096.0
"""The level that stands for an infinite one: 2^12, at which abar is 2^-24, or twice the
level below if that is more."""


def alphas_cumprod(betas: np.ndarray) -> np.ndarray:
    """Compute abar, the squared scale of the data after each step."""
    return np.exp(np.cumsum(np.log1p(-betas)))


def levels(betas: np.ndarray) -> np.ndarray:
    """Compute sigma after each step of the chain, ascending."""
    return np.sqrt(np.expm1(-np.cumsum(np.log1p(-betas))))


@checks_rules
def chain_levels(
    beta_schedule: Annotated[str, one_of(BETA_SCHEDULES)] = "linear",
    num_train_timesteps: Annotated[int, at_least(1)] = 1000,
    beta_start: Annotated[float, Positive] = 1e-4,
    beta_end: Annotated[float, Positive] = 0.02,
    zero_terminal_snr: bool = False,
) -> np.ndarray:
    """Compute the noise levels of a chain by the name of its schedule, ascending.

    Args:
        beta_schedule: a name of `BETA_SCHEDULES`.
        num_train_timesteps: the length of the chain.
        beta_start: the first beta, of schedules that use it.
        beta_end: the last beta, of schedules that use it.
        zero_terminal_snr: whether the chain ends without signal, by
            `without_terminal_signal`. Its last level is then `HIGHEST`, which stands
            for infinity.

    Raises: ValueError for an unknown name, and numbers that are not > 0.

    Examples:
        The chain of DDPM ends at abar = 4e-5, which is the level 157:

        >>> print(round(float(chain_levels("linear", 1000)[-1])))
        157
    """
    make = BETA_SCHEDULES[beta_schedule]
    betas = make(num_train_timesteps, beta_start, beta_end)
    if not zero_terminal_snr:
        return levels(betas)
    below = levels(without_terminal_signal(betas)[:-1])
    return np.append(below, max(HIGHEST, 2 * below[-1]))


@functools.cache
def iddpm_levels(num_steps: int, c_1: float, c_2: float) -> np.ndarray:
    """The noise levels u_0 > ... > u_M = 0 of the cosine chain (Karras 2022, table 1).

    u_(j-1)^2 = (u_j^2 + 1) / max(abar_(j-1) / abar_j, c_1) - 1, with
    abar_j = sin^2(pi/2 j / (M (c_2 + 1))).
    """
    ladder = np.arange(num_steps + 1) / (num_steps * (c_2 + 1))
    alpha_bar = np.sin(0.5 * math.pi * ladder) ** 2
    levels = np.zeros(num_steps + 1)
    for j in range(num_steps, 0, -1):
        ratio = max(alpha_bar[j - 1] / alpha_bar[j], c_1)
        levels[j - 1] = math.sqrt((levels[j] ** 2 + 1) / ratio - 1)
    return levels


def leading(num_steps: int, num_train_timesteps: int) -> np.ndarray:
    """Visit every (T // num_steps)-th timestep from 0, never the last ones."""
    return np.arange(num_steps)[::-1] * (num_train_timesteps // num_steps)


def trailing(num_steps: int, num_train_timesteps: int) -> np.ndarray:
    """Visit every (T / num_steps)-th timestep from the last, rounded (Lin 2023)."""
    stride = num_train_timesteps / num_steps
    return np.round(num_train_timesteps - stride * np.arange(num_steps)).astype(int) - 1


def linspace(num_steps: int, num_train_timesteps: int) -> np.ndarray:
    """Visit timesteps evenly from the last to the first, rounded (Nichol 2021)."""
    return np.round(np.linspace(num_train_timesteps - 1, 0, num_steps)).astype(int)


@checks_rules
def sections(
    counts: Annotated[tuple[int, ...], each(at_least(1), at_least_one=True)],
    num_train_timesteps: Annotated[int, at_least(1)],
) -> np.ndarray:
    """Visit some timesteps of each section of a chain, evenly (Nichol 2021).

    The chain is cut into as many sections of equal length as there are counts, the
    first ones a timestep longer if they don't fit; a section is visited from its first
    timestep to its last. Descending.

    Args:
        counts: timesteps to visit in each section, the one of least noise first.
        num_train_timesteps: the length of the chain.

    Raises: ValueError for a section that is shorter than its count.
    """
    size, extra = divmod(num_train_timesteps, len(counts))
    visited, start = [], 0
    for i, count in enumerate(counts):
        length = size + (i < extra)
        if length < count:
            raise ValueError(
                f"counts is {counts}; section {i} of a chain of {num_train_timesteps} "
                f"has {length} timesteps, fewer than {count}."
            )
        stride = (length - 1) / (count - 1) if count > 1 else 1
        visited.append(start + np.round(stride * np.arange(count)).astype(int))
        start += length
    return np.concatenate(visited)[::-1]


TIMESTEP_SPACINGS: dict[str, Callable[[int, int], np.ndarray]] = {
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
}
"""Functions that choose the timesteps of a chain to visit, in descending order."""
