"""`sample`: check the arguments, bind key and condition, run the sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Num

from score_sde.arrays import as_float, check_alike, is_traced, wide
from score_sde.checks import check_grid, warn_without_noise
from score_sde.flow_map import as_denoiser, as_jump
from score_sde.samplers.adams_bashforth import AdamsBashforth
from score_sde.samplers.adaptive_sde import AdaptiveSDE
from score_sde.samplers.ancestral import EulerAncestral
from score_sde.samplers.ddim import DDIM
from score_sde.samplers.ddpm import DDPM
from score_sde.samplers.deis import DEIS
from score_sde.samplers.dpm_2 import DPM2, DPM2Ancestral
from score_sde.samplers.dpm_adaptive import DPMAdaptive
from score_sde.samplers.dpm_fast import DPMFast
from score_sde.samplers.dpm_solver import DPMSolver1, DPMSolver2, DPMSolver3
from score_sde.samplers.dpmpp_multi import DPMpp2M, DPMpp2MSDE, DPMpp3MSDE
from score_sde.samplers.dpmpp_single import DPMpp2SAncestral, DPMppSDE
from score_sde.samplers.edm import EDMStochastic, Euler, Heun
from score_sde.samplers.edm_ablation import EDMAblation
from score_sde.samplers.jumps import Consistency, JumpSampler
from score_sde.samplers.langevin import Langevin
from score_sde.samplers.lms import LMS
from score_sde.samplers.memory import remembering
from score_sde.samplers.noise import BrownianPath, from_bank, from_key
from score_sde.samplers.plms import PLMS
from score_sde.samplers.predictor_corrector import PredictorCorrector
from score_sde.samplers.progress import Report, report_end, reporting
from score_sde.samplers.repaint import RePaint
from score_sde.samplers.steps import Draw, Sampler, SampleResult
from score_sde.samplers.unipc import UniPC
from score_sde.types import Array, Denoise, Grid, Jump, Key, Points, Scalar

SAMPLERS: dict[str, type[Sampler]] = {
    "euler": Euler,
    "euler_ancestral": EulerAncestral,
    "heun": Heun,
    "dpm_2": DPM2,
    "dpm_2_ancestral": DPM2Ancestral,
    "lms": LMS,
    "adams_bashforth": AdamsBashforth,
    "dpmpp_2s_ancestral": DPMpp2SAncestral,
    "dpmpp_2m": DPMpp2M,
    "dpmpp_sde": DPMppSDE,
    "dpmpp_2m_sde": DPMpp2MSDE,
    "dpmpp_3m_sde": DPMpp3MSDE,
    "dpm_fast": DPMFast,
    "dpm_adaptive": DPMAdaptive,
    "edm": Heun,
    "edm_stochastic": EDMStochastic,
    "edm_ablation": EDMAblation,
    "ddpm": DDPM,
    "ddim": DDIM,
    "plms": PLMS,
    "unipc": UniPC,
    "deis": DEIS,
    "dpm_solver_1": DPMSolver1,
    "dpm_solver_2": DPMSolver2,
    "dpm_solver_3": DPMSolver3,
    "langevin": Langevin,
    "predictor_corrector": PredictorCorrector,
    "adaptive_sde": AdaptiveSDE,
    "repaint": RePaint,
    "jump": JumpSampler,
    "consistency": Consistency,
}


def sample(
    sampler: str | Sampler,
    denoise: Denoise | Jump,
    x: Points,
    sigmas: Grid,
    *,
    key: Key | None = None,
    noise: Num[Array | np.ndarray, "draws batch *dims"] | BrownianPath | None = None,
    cond: Any = None,
    return_path: bool = False,
    progress: Report | None = None,
) -> SampleResult:
    """Carry x from noise level sigmas[0] down to sigmas[-1].

    Works under jit, vmap and grad and on a sharded batch; wrap it in `jax.jit` when
    it is called more than once.

    Args:
        sampler: a name, or an object such as `SAMPLERS["heun"](s_churn=40.0)`.
        denoise: D(x, sigma, cond), shaped like x; or a jump G(x, sigma, sigma_next,
            cond), whose diagonal is the denoiser. One with an attribute `memory` (see
            `samplers.memory`) is given at each step what it learned before.
        x: [batch, *dims], noise of standard deviation sigmas[0] around the data.
        sigmas: strictly decreasing, usually from `grids`; the last may be 0.
        key: for samplers that add noise. The noise of example i is a function of
            (key, step, i), so that a sample doesn't depend on its batch; keys may
            also be given one per example, [batch]. A sampler that chooses its steps by
            its noise makes a `BrownianPath` of it.
        noise: instead of a key, [draws, batch, *dims], the k-th draw being noise[k]; or
            a `BrownianPath`, for samples that converge when the grid is refined.
        cond: the condition of the denoiser, or None.
        return_path: also return x at every level, and each step's prediction of x0.
        progress: called on the host with (levels passed, levels), like `progress_bar`.

    Raises: ValueError for an unknown name, a grid that does not decrease, noise or a
        denoiser's result of another shape than x, noise that is missing, too short, or
        of no use to the sampler, and a memory or a jump that it can't take.

    Examples:
        Data that are all 0 have the denoiser 0, and every path ends there:

        >>> x, sigmas = 4 * jnp.ones((2, 3)), jnp.array([4.0, 2.0, 1.0, 0.0])
        >>> out = sample("heun", lambda x, sigma, cond=None: 0 * x, x, sigmas)
        >>> print(float(abs(out.x).max()), int(out.num_evals.max()))
        0.0 5
    """
    sampler, given = _named(sampler), as_float(x)
    check_grid(sigmas)
    warn_without_noise(x, sigmas)
    # Levels and states of half precision would lose what steps add.
    x = given.astype(wide(given.dtype))
    sampler.check_model(denoise, sigmas)
    _check_noise(sampler, key, noise, sigmas)
    sigmas = jnp.asarray(sigmas, x.dtype)
    draw = _draws(sampler, key, noise, x, sigmas)
    model, sampler = _bound(sampler, denoise, given.dtype, sigmas, cond, progress)
    result = sampler.run(model, x, sigmas, draw, return_path=return_path)
    if progress is not None:
        report_end(result, sigmas, progress)
    return result.of_type(given.dtype)


def _bound(
    sampler: Sampler,
    denoise: Denoise | Jump,
    dtype: Any,
    sigmas: Array,
    cond: Any,
    progress: Report | None,
) -> tuple[Callable[..., Array], Sampler]:
    """The model that the sampler calls, and the sampler, with a memory if there is one.

    The model is given x of the caller's type, and its results are those of x again.
    """
    made: Callable[..., Any] = as_jump if sampler.jumps else as_denoiser
    function = made(denoise)
    memory: Any = getattr(denoise, "memory", None)

    def checked(denoised: Array, x: Array) -> Array:
        alike = check_alike("the denoised data", as_float(denoised), x)
        return alike.astype(x.dtype)

    def evaluate(x: Array, *levels: Scalar) -> Array:
        return checked(function(x.astype(dtype), *levels, cond), x)

    def recall(known: Any, x: Array, sigma: Scalar) -> tuple[Array, Any]:
        x0, after = memory.recall(known, x.astype(dtype), sigma, cond)
        return checked(x0, x), after

    model, told = evaluate, recall
    if progress is not None:
        model = reporting(evaluate, sigmas, progress, place=1)
        told = reporting(recall, sigmas, progress, place=2)
    if memory is not None:
        sampler = remembering(sampler, memory.start, told)
    return model, sampler


def _named(sampler: str | Sampler) -> Sampler:
    if not isinstance(sampler, str):
        return sampler
    if sampler not in SAMPLERS:
        raise ValueError(
            f"unknown sampler {sampler!r}; choose from {sorted(SAMPLERS)}."
        )
    return SAMPLERS[sampler]()


def _draws(
    sampler: Sampler,
    key: Key | None,
    noise: Array | np.ndarray | BrownianPath | None,
    x: Array,
    sigmas: Array,
) -> Draw:
    if noise is None and key is not None and sampler.needs_path:
        noise = BrownianPath(key, sigma_max=sigmas[0])
    if isinstance(noise, BrownianPath):
        return noise.like(x)
    return from_key(key, x) if noise is None else from_bank(noise, x)


# The checks read what is given: inside of `jit` whatever JAX computes is traced.


def _check_noise(sampler: Sampler, key: Key | None, noise: Any, sigmas: Grid) -> None:
    if sampler.stochastic and key is None and noise is None:
        raise ValueError(f"{sampler} adds noise: give it a key, or the noise itself.")
    if noise is None or not sampler.stochastic:
        return
    if isinstance(noise, BrownianPath):
        if not sampler.follows_path:
            raise ValueError(
                f"{sampler} passes levels more than once, where a Brownian path has no "
                "more noise: give it a key."
            )
        _check_reach(noise.sigma_max, sigmas)
        return
    # Of a traced grid the last level may be 0.
    to_zero = is_traced(sigmas) or np.asarray(sigmas)[-1] == 0
    num_steps = len(sigmas) - 1
    needed = sampler.draws_needed(num_steps, to_zero=bool(to_zero))
    if needed is not None and len(noise) < needed:
        raise ValueError(
            f"{sampler} takes {needed} draws of noise over {num_steps} steps, got "
            f"{len(noise)}."
        )


def _check_reach(sigma_max: Scalar, sigmas: Grid) -> None:
    if is_traced((sigma_max, sigmas)):
        return
    first = float(np.asarray(sigmas)[0])
    if first > float(sigma_max):
        raise ValueError(
            f"the Brownian path begins at sigma_max {sigma_max}, below the first level "
            f"{first}."
        )
