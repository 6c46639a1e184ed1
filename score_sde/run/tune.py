"""The grid of a run, tuned to its model and its sampler."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from score_sde import conditions
from score_sde.arrays import per_example
from score_sde.run.open import Run
from score_sde.run.sample import guided_denoiser, sample_keys
from score_sde.samplers import SAMPLERS, grids, sample
from score_sde.training.tuned_levels import Tuned, tuned_levels
from score_sde.types import Array, UserError

APART = 2**30
"""Number of the first path: no sample that is drawn begins with the noise of one."""
PLAIN = {"num_steps", "sigma_min", "sigma_max", "sigma_data"}
"""What a grid may need to be one that is begun with."""


class Tuning(NamedTuple):
    """A tuned grid, and how far from the end of the flow samples end with it."""

    tuned: Tuned
    held_out: dict[str, float]
    """Name of a grid, 'tuned' among them -> root mean square distance of a value from
    the end of the flow, on paths that it was not tuned on."""


def tune(
    run: Run, *, num_paths: int = 16, num_exact: int = 64, num_updates: int = 60
) -> Tuning:
    """Tune the grid of a run, for its sampler and with its guidance.

    Args:
        run: an opened one.
        num_paths: paths to tune on; as many others are held out.
        num_exact: steps of Heun's method to the end of the flow.
        num_updates: steps of the optimiser.

    Raises:
        UserError: if samples are not a function of the noise that they begin with, or
            guidance depends on the grid or on steps before.
    """
    drawing, model = run.experiment.drawing, run.experiment.model
    _check(run)
    sigmas = drawing.grid()
    keys = sample_keys(run.experiment.seed, APART, 2 * num_paths)
    numbers = np.arange(2 * num_paths)
    cond = conditions.of_samples(model.conditions, run.dataset, numbers)
    like = jnp.zeros((2 * num_paths, *model.shape), jnp.float32)
    start = sigmas[0].astype(like.dtype) * per_example(jr.normal, keys, like)
    denoise = guided_denoiser(model, drawing, run.params, run.companions.offers)
    if getattr(denoise, "memory", None) is not None:
        raise UserError(
            "there is no grid to tune: its guidance remembers the steps before; tune "
            "without guidance.momentum."
        )

    @partial(jax.jit, static_argnums=0)
    def ends(sampler: Any, x: Array, cond: Any, levels: Array) -> Array:
        # Checkpointed: of every step only x is kept for the gradient.
        model = jax.checkpoint(lambda x, s, cond: denoise(x, s, cond))
        return sample(sampler, model, x, levels, cond=cond).x

    low = min(float(sigmas[-2]), lowest_level(run))
    fine = grids.karras(num_exact, sigma_min=low, sigma_max=float(sigmas[0]))
    exact = ends(SAMPLERS["heun"](), start, cond, fine)

    def distance(part: slice, levels: Array) -> Array:
        told = jax.tree.map(lambda a: a[part], cond)
        out = ends(drawing.sampler, start[part], told, levels)
        return jnp.sqrt(jnp.mean((out - exact[part]) ** 2))

    starts = _starts(run)
    tuned = tuned_levels(
        partial(distance, slice(num_paths)),
        starts,
        sigma_low=low,
        num_updates=num_updates,
    )
    others = jax.jit(partial(distance, slice(num_paths, None)))
    grids_ = {**starts, "tuned": tuned.sigmas}
    return Tuning(tuned, {name: float(others(grid)) for name, grid in grids_.items()})


def lowest_level(run: Run) -> float:
    """The lowest noise level that the run's model was trained at."""
    return float(run.sde.sigma(run.sde.t_min))


def _starts(run: Run) -> dict[str, Array]:
    """The run's grid, and those of as many steps that need nothing else, each once."""
    sigmas = run.sigmas
    given = {
        "num_steps": len(sigmas) - 1,
        "sigma_min": float(sigmas[-2]),
        "sigma_max": float(sigmas[0]),
        "sigma_data": run.experiment.model.sigma_data,
    }
    made = {"the run's": sigmas}
    for name, grid in grids.GRIDS.items():
        wanted = inspect.signature(grid).parameters
        needed = {n for n, p in wanted.items() if p.default is p.empty}
        if not {"num_steps", "sigma_min"} <= needed <= PLAIN:
            continue
        levels = grid(**{n: v for n, v in given.items() if n in wanted})
        if not any(np.array_equal(levels, other) for other in made.values()):
            made[name] = levels
    return made


def _check(run: Run) -> None:
    """Refuse what has no end of the flow to come near to.

    Raises:
        UserError: says why.
    """
    drawing = run.experiment.drawing
    sigmas, name = np.asarray(drawing.grid()), type(drawing.sampler).__name__
    if drawing.sampler.stochastic:
        why = f"sampler {name} adds noise; a grid is tuned for one that does not"
    elif drawing.sampler.jumps:
        why = f"sampler {name} jumps; a grid is tuned for one that follows the flow"
    elif "grid" in drawing.own:
        why = "its guidance depends on the grid; tune without it"
    elif len(sigmas) < 3 or sigmas[-1] != 0:
        why = f"its grid is {sigmas.tolist()}; there must be two steps or more, to 0"
    else:
        return
    raise UserError(f"there is no grid to tune: {why}.")
