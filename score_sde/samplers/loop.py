"""`sample`: check the arguments, bind key and condition, run the sampler."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from score_sde.arrays import example_keys, per_example
from score_sde.samplers.adaptive_sde import AdaptiveSDE
from score_sde.samplers.ancestral import EulerAncestral
from score_sde.samplers.ddim import DDIM
from score_sde.samplers.ddpm import DDPM
from score_sde.samplers.deis import DEIS
from score_sde.samplers.dpm_solver import DPMSolver1, DPMSolver2, DPMSolver3
from score_sde.samplers.edm import Euler, Heun
from score_sde.samplers.langevin import Langevin
from score_sde.samplers.plms import PLMS
from score_sde.samplers.predictor_corrector import PredictorCorrector
from score_sde.samplers.steps import Draw, Sampler, SampleResult
from score_sde.samplers.unipc import UniPC
from score_sde.types import Array, Denoise, Key, Scalar

SAMPLERS: dict[str, type[Sampler]] = {
    "euler": Euler,
    "heun": Heun,
    "edm": Heun,
    "euler_ancestral": EulerAncestral,
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
}


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
        return_path: also return x at every level, and each step's prediction of x0.
    Raises: ValueError for an unknown name, a grid that does not decrease, and a
        stochastic sampler without key or noise.
    """
    sampler = _named(sampler)
    sigmas = _checked(sigmas, x)
    if sampler.stochastic and key is None and noise is None:
        raise ValueError(f"{sampler} adds noise: give it a key, or the noise itself.")

    def model(x: Array, sigma: Scalar) -> Array:
        return denoise(x, sigma, cond)

    draw = _from_key(key, x) if noise is None else _from_bank(noise, x)
    return sampler.run(model, x, sigmas, draw, return_path=return_path)


def _from_key(key: Key | None, x: Array) -> Draw:
    """Independent draws; example i of draw k is a function of (key, k, i)."""
    keys = None if key is None else example_keys(key, x.shape[0])

    def draw(k: Scalar, sigma: Scalar, sigma_next: Scalar) -> Array:
        del sigma, sigma_next
        return per_example(jr.normal, jax.vmap(lambda key: jr.fold_in(key, k))(keys), x)

    return draw


def _from_bank(noise: Array, x: Array) -> Draw:
    """The k-th entry of given noise.

    Past the end the last one is repeated: the last step of a scan asks for a draw only
    to multiply it by zero.
    """
    noise = jnp.asarray(noise)

    def draw(k: Scalar, sigma: Scalar, sigma_next: Scalar) -> Array:
        del sigma, sigma_next
        return noise[jnp.minimum(k, len(noise) - 1)].astype(x.dtype)

    return draw


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
