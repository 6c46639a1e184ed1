"""Moving averages of any length, chosen after training (Karras et al. 2024, sec. 3).

The power-function average of parameters theta over t steps weighs them by

    p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1)     for tau from 0 to t,

so that its length grows with training. Its width is the standard deviation of p over t.
Averages of two widths are tracked and stored now and then; any other is the combination
of the stored ones whose profile is nearest in the least squares.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.networks.network import is_frozen
from score_sde.runtime.folder import save_arrays
from score_sde.types import Array, Params, UserError
from score_sde.weights.published.tensors import own_tensors


class Profile(NamedTuple):
    """One average: its relative width, and the steps it is over."""

    std: float
    step: int


def exponent(std: float) -> float:
    """gamma of a width: std^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).

    Raises: ValueError unless 0 < std < 0.28; the flat average has 1/sqrt(12) = 0.289.
    """
    if not 0 < std < 0.28:
        raise ValueError(f"the width of an average is {std}; it must be in (0, 0.28).")
    inverse = std**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(np.real(roots).max())


def power_rate(step: Array, std: float) -> Array:
    """Share of the average that is new at the step after which t steps are taken.

    1 - (1 - 1/t)^(gamma + 1): the weight of each step is then the integral of p over
    it. It is 1 at first, so that the initial parameters have no part in the average.
    """
    t = (step + 1).astype(jnp.float32)
    # Without cancellation, for steps in millions.
    return -jnp.expm1((exponent(std) + 1) * jnp.log1p(-1 / t))


def inner_product(a: Profile, b: Profile) -> float:
    """The integral of the product of two profiles."""
    early, late = sorted((a, b), key=lambda p: p.step)
    gamma, gamma_late = exponent(early.std), exponent(late.std)
    factor = (gamma + 1) * (gamma_late + 1) / (gamma + gamma_late + 1)
    return factor * (early.step / late.step) ** gamma_late / late.step


def combination(stored: Sequence[Profile], target: Profile) -> np.ndarray:
    """The weights of the stored averages that come nearest to the target."""
    gram = np.array([[inner_product(a, b) for b in stored] for a in stored])
    projection = np.array([inner_product(a, target) for a in stored])
    return np.linalg.lstsq(gram, projection, rcond=1e-13)[0]


def snapshot_path(folder: Path, profile: Profile) -> Path:
    """The file of a stored average."""
    return folder / f"{profile.std}_{profile.step:08d}.npz"


def save_snapshot(folder: Path, profile: Profile, params: Params) -> None:
    """Write one average, whole or not at all."""
    leaves = jax.tree.leaves(jax.device_get(params))
    names = [tensor.name for tensor in own_tensors(params)]
    arrays = dict(zip(names, leaves, strict=True))
    save_arrays(snapshot_path(folder, profile), arrays)


def snapshots(folder: Path) -> list[Profile]:
    """The stored averages of a run, in order. Raises: UserError if there are none."""
    found = []
    for path in sorted(folder.glob("*.npz")):
        match = re.fullmatch(r"(0\.\d+)_(\d+)\.npz", path.name)
        if match:
            found.append(Profile(float(match[1]), int(match[2])))
    if not found:
        raise UserError(
            f"no averages in {folder}: train with --config.train.power_ema_stds=..."
        )
    return found


def reconstruct(folder: Path, std: float, like: Params) -> tuple[int, Params]:
    """(step, average) of any width at the newest step, from the stored averages.

    Raises: UserError for a width that no average has, and if there is none stored.
    """
    stored = snapshots(folder)
    step = max(profile.step for profile in stored)
    try:
        weights = combination(stored, Profile(std, step))
    except ValueError as error:
        raise UserError(str(error)) from None
    entries, structure = jax.tree_util.tree_flatten_with_path(like)
    leaves = [leaf for _, leaf in entries]
    constant = [is_frozen(path) for path, _ in entries]
    names = [tensor.name for tensor in own_tensors(like)]
    sums = [np.zeros(leaf.shape) for leaf in leaves]
    for profile, weight in zip(stored, weights, strict=True):
        with np.load(snapshot_path(folder, profile)) as arrays:
            for total, name, frozen in zip(sums, names, constant, strict=True):
                if frozen:  # the same in all; weights sum to 1 but nearly
                    total[...] = arrays[name]
                else:
                    total += weight * arrays[name]
    arrays_here = [
        jnp.asarray(total, leaf.dtype) for total, leaf in zip(sums, leaves, strict=True)
    ]
    return step, jax.tree.unflatten(structure, arrays_here)
