"""Adams and Bashforth in TrigFlow's variables, where a Gaussian's flow stands still.

With S^2 = sigma^2 + sigma_data^2, z = x / S and the angle tau =
atan(sigma / sigma_data) (Lu and Song 2025, 'sCM'), the probability flow
dx/dsigma = (x - D) / sigma is

    dz/dtau = (sigma_data^2 x - S^2 D) / (sigma sigma_data S)

For EDM's preconditioner this is the raw network's output with the sign changed. It is 0
for data of a Gaussian law with standard deviation sigma_data, whose denoiser is
D = sigma_data^2 x / S^2: what is linear in the flow costs no steps.
"""

from __future__ import annotations

from typing import Annotated, Any

import jax.numpy as jnp

from score_sde.fields import pytree, static
from score_sde.rules import Positive, at_least
from score_sde.samplers.lms import LMS, adams_weights
from score_sde.samplers.steps import Draw, Interval, Model, Step
from score_sde.types import Array, Scalar


@pytree
class AdamsBashforth(LMS):
    """Adams-Bashforth over the angle; one evaluation a step.

    `LMS` is the same in x over sigma. The first steps have fewer slopes behind them and
    an order as low as that, 1, 2, ...; a step to 0 goes to the prediction. Made for
    `grids.trigflow`, or for one that is tuned.

    Args:
        sigma_data: the standard deviation of the data.
        order: the number of slopes.
    """

    sigma_data: Annotated[Scalar, Positive] = 0.5
    order: Annotated[int, at_least(1)] = static(default=3)

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        del draw
        denoised = denoise(x, at.sigma)
        scale, scale_next = (
            jnp.hypot(sigma, self.sigma_data) for sigma in (at.sigma, at.sigma_next)
        )
        turning = self.sigma_data**2 * x - scale**2 * denoised
        slopes = (turning / (at.sigma * self.sigma_data * scale), *state)
        angles = jnp.arctan2(at.sigmas, self.sigma_data)
        weights = adams_weights(angles, at.number, self.order)
        z = x / scale
        for weight, slope in zip(weights, slopes, strict=True):
            z = z + weight * slope
        x_next = jnp.where(at.sigma_next > 0, scale_next * z, denoised)
        return Step(x_next, denoised, slopes[:-1])
