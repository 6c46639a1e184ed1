"""Predictor-corrector sampling of any SDE (Song et al. 2021, alg. 1 to 5, app. E to G).

From one level to a noisier one, s < t, the SDE scales xs by a = alpha_t / alpha_s and
adds noise of variance v = alpha_t^2 (sigma_t^2 - sigma_s^2). A predictor steps back
over such an interval; before it, the corrector makes Langevin steps at level t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp

from score_sde.fields import pytree, static
from score_sde.rules import Positive, at_least, one_of
from score_sde.samplers.langevin import STEP_SIZES, equilibrate
from score_sde.samplers.steps import Draw, Interval, Model, Sampler, Step
from score_sde.sde import SDE, VE
from score_sde.types import Array


class Predicted(NamedTuple):
    """Mean and standard deviation of x = xt / alpha at the next level."""

    mean: Array
    std: Array


Predictor = Callable[[SDE, Array, Array, Array, Array], Predicted]
"""(sde, x, denoised, sigma, sigma_next)."""


def reverse_diffusion(
    sde: SDE, x: Array, denoised: Array, sigma: Array, sigma_next: Array
) -> Predicted:
    """Reverse the forward step: xs = (2 - a) xt + v score + sqrt(v) z (app. E).

    With the exact a and v of any SDE; for VP they make the step of the DDPM chain, for
    VE that of SMLD. For sub-VP the paper takes Euler's step instead.
    """
    a = _scale(sde, sigma, sigma_next)
    added = (sigma - sigma_next) * (sigma + sigma_next)
    mean = a * (2 - a) * x + a * (added / sigma**2) * (denoised - x)
    return Predicted(mean, a * jnp.sqrt(added))


def probability_flow(
    sde: SDE, x: Array, denoised: Array, sigma: Array, sigma_next: Array
) -> Predicted:
    """Reverse the forward step of the flow: xs = (2 - a) xt + v score / 2 (app. D.3).

    For VP these are the paper's discrete flow steps along the DDPM chain, for VE those
    along SMLD's; no noise is drawn.
    """
    a = _scale(sde, sigma, sigma_next)
    added = (sigma - sigma_next) * (sigma + sigma_next)
    mean = a * (2 - a) * x + 0.5 * a * (added / sigma**2) * (denoised - x)
    return Predicted(mean, jnp.zeros_like(sigma))


def ancestral_sampling(
    sde: SDE, x: Array, denoised: Array, sigma: Array, sigma_next: Array
) -> Predicted:
    """Take mean and variance of q(xs given xt, x0 = D), on every SDE (app. F).

    For VP the paper takes the variance v in place of the posterior's; that sampler is
    `DDPM(variance="fixed_large")`.
    """
    del sde
    ratio = sigma_next / sigma
    left = (1 - ratio) * (1 + ratio)
    return Predicted(x + left * (denoised - x), sigma_next * jnp.sqrt(left))


def euler_maruyama(
    sde: SDE, x: Array, denoised: Array, sigma: Array, sigma_next: Array
) -> Predicted:
    """Make Euler's step: xs = xt - (f xt - g^2 score) dt + g sqrt(dt) z, dt = t - s.

    An SDE need not reach sigma = 0; the step there is D itself, without noise.
    """
    last = sigma_next == 0
    reached = jnp.where(last, 0.5 * sigma, sigma_next)
    t, s = sde.t_from_sigma(sigma), sde.t_from_sigma(reached)
    a, dt = _scale(sde, sigma, reached), t - s
    g_squared = sde.diffusion_squared(t) / sde.alpha(t) ** 2  # of x
    mean = a * (1 - sde.drift_rate(t) * dt) * x
    mean = mean + a * g_squared * (dt / sigma**2) * (denoised - x)
    std = jnp.where(last, 0.0, a * jnp.sqrt(g_squared * dt))
    return Predicted(jnp.where(last, denoised, mean), std)


PREDICTORS: dict[str, Predictor] = {
    "ancestral_sampling": ancestral_sampling,
    "euler_maruyama": euler_maruyama,
    "probability_flow": probability_flow,
    "reverse_diffusion": reverse_diffusion,
}


DETERMINISTIC = frozenset({"probability_flow"})
"""Predictors that draw no noise."""

CORRECTORS = ("none", *STEP_SIZES)


def _scale(sde: SDE, sigma: Array, sigma_next: Array) -> Array:
    """Compute a, the scale of the data at the noisier level over the other."""
    t, s = sde.t_from_sigma(sigma), sde.t_from_sigma(sigma_next)
    return jnp.exp(sde.log_alpha(t) - sde.log_alpha(s))


@pytree
class PredictorCorrector(Sampler):
    """Langevin steps at a level, then a step to the next one, level after level.

    Args:
        sde: the forward process that is reversed.
        predictor: a name of `PREDICTORS`.
        corrector: "none", or a rule of `langevin.STEP_SIZES`: "langevin" or "ald",
            scaled by a^2 as published, which is 1 - beta of the chain for VP.
        snr: signal-to-noise ratio of the corrector's steps.
        n_steps: the number of the corrector's steps at each level.
        denoise: leave all noise out of the step to sigma = 0, of which a step of the
            flow would keep half.
    """

    sde: SDE = VE()
    predictor: Annotated[str, one_of(PREDICTORS)] = static(default="reverse_diffusion")
    corrector: Annotated[str, one_of(CORRECTORS)] = static(default="langevin")
    snr: Annotated[float, Positive] = 0.16
    n_steps: Annotated[int, at_least(1)] = static(default=1)
    denoise: bool = static(default=True)

    @property
    def num_draws(self) -> int:
        return self._num_corrections + self._predictor_draws

    @property
    def follows_path(self) -> bool:
        return self.corrector == "none"

    def draws_needed(self, num_steps: int, *, to_zero: bool) -> int:
        # The corrector draws at the last level too.
        left_out = self._predictor_draws if to_zero and self.denoise else 0
        return self.num_draws * num_steps - left_out

    @property
    def _predictor_draws(self) -> int:
        return 0 if self.predictor in DETERMINISTIC else 1

    @property
    def _num_corrections(self) -> int:
        return 0 if self.corrector == "none" else self.n_steps

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        first = None
        if self.corrector != "none":
            x, first = equilibrate(
                denoise,
                x,
                draw,
                sigma=at.sigma,
                snr=self.snr,
                n_steps=self.n_steps,
                step_size=self.corrector,
                scale=_scale(self.sde, at.sigma, at.sigma_next) ** 2,
            )
        denoised = denoise(x, at.sigma)
        mean, std = PREDICTORS[self.predictor](
            self.sde, x, denoised, at.sigma, at.sigma_next
        )
        if self._predictor_draws:
            if self.denoise:
                std = jnp.where(at.sigma_next > 0, std, 0.0)
            mean = mean + std * draw(self._num_corrections, at.sigma, at.sigma_next)
        elif self.denoise:
            mean = jnp.where(at.sigma_next > 0, mean, denoised)
        return Step(mean, denoised if first is None else first, state)

    def num_evals(self, sigmas: Array) -> Array:
        return jnp.asarray((len(sigmas) - 1) * (self._num_corrections + 1))
