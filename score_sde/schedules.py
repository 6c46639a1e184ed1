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
from score_sde.rules import Positive, at_least, one_of


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


BETA_SCHEDULES: dict[str, Callable[..., np.ndarray]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
}


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
) -> np.ndarray:
    """Compute the noise levels of a chain by the name of its schedule, ascending.

    Args:
        beta_schedule: a name of `BETA_SCHEDULES`.
        num_train_timesteps: the length of the chain.
        beta_start: the first beta, of schedules that use it.
        beta_end: the last beta, of schedules that use it.

    Raises: ValueError for an unknown name, and numbers that are not > 0.

    Examples:
        The chain of DDPM ends at abar = 4e-5, which is the level 157:

        >>> print(round(float(chain_levels("linear", 1000)[-1])))
        157
    """
    betas = BETA_SCHEDULES[beta_schedule]
    return levels(betas(num_train_timesteps, beta_start, beta_end))


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


TIMESTEP_SPACINGS: dict[str, Callable[[int, int], np.ndarray]] = {
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
}
"""Functions that choose the timesteps of a chain to visit, in descending order."""
