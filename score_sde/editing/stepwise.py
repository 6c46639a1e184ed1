"""Restoration as step rules: DDRM, DiffPIR and FlowDPS.

Each keeps the measurement and y as its fields and is a sampler of its own, for a plain
denoiser: `sample(DDRM(measurement, y, noise_std=0.1), denoise, x, sigmas, key=key)`.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np

from score_sde.arrays import expand_like
from score_sde.editing.guided import require_linear, residual
from score_sde.fields import pytree
from score_sde.measurements import Measurement
from score_sde.rules import NonNegative, Positive, Share, at_least
from score_sde.samplers.steps import (
    Draw,
    Interval,
    Model,
    Sampler,
    SampleResult,
    Step,
    slope,
)
from score_sde.types import Array, Scalar


@pytree
class Restoring(Sampler):
    """A step rule of a measurement.

    Args:
        measurement: A.
        y: what was measured, [batch, ...], or [1, ...] for all examples.
        noise_std: s, the standard deviation of the noise in y; 0 for none.
        origin: clean data around which the start is noised, shaped like x, or
            [1, *dims] for all examples, as `noised(key, origin, sigma)` makes it; None
            for 0, where the start is noise alone.
    """

    measurement: Measurement
    y: Array | np.ndarray
    noise_std: Annotated[float, NonNegative] = dataclasses.field(kw_only=True)
    origin: Array | np.ndarray | None = dataclasses.field(default=None, kw_only=True)

    @property
    def num_draws(self) -> int:
        return 1

    def gap(self, x0: Array) -> Array:
        """y - A x0; an error if their shapes differ."""
        return residual(x0, self.measurement, self.y)

    def begun(self, x: Array) -> Array:
        """The origin of the start, shaped like x."""
        if self.origin is None:
            return jnp.zeros_like(x)
        return jnp.broadcast_to(jnp.asarray(self.origin, x.dtype), x.shape)


def renoised(
    x0: Array, eps: Array, fresh: Array, sigma: Scalar, share: Scalar
) -> Array:
    """Noise x0 to level sigma by old noise eps and, for a share of it, fresh noise."""
    return x0 + sigma * (jnp.sqrt(1 - share) * eps + jnp.sqrt(share) * fresh)


@pytree
class DDRM(Restoring):
    """Denoising diffusion restoration (Kawar et al. 2022, eq. 7 and 8).

    In the axes V of A = U S V', with ybar = S^-1 U' y of noise s / S, a coordinate of x
    goes to sigma_next by

        not measured:            D + sigma_next (sqrt(1 - eta^2) eps_hat + eta z)
        sigma_next < s / S:      D + sqrt(1 - eta^2) sigma_next (ybar - D) S / s
                                   + eta sigma_next z
        else:                    D + eta_b (ybar - D) + sqrt(sigma_next^2
                                   - (eta_b s / S)^2) z

    with eps_hat = (x - D) / sigma, for a measurement whose singular values are known.

    Args:
        measurement: A.
        y: what was measured, [batch, ...], or [1, ...] for all examples.
        noise_std: s, the standard deviation of the noise in y; 0 for none.
        eta: share of fresh noise, 0 to 1; the paper's is 0.85.
        eta_b: how much of ybar is taken; 1 in the paper.

    Raises: ValueError for a measurement without a spectrum.
    """

    eta: Annotated[float, Share] = dataclasses.field(default=0.85, kw_only=True)
    eta_b: Annotated[float, Share] = dataclasses.field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.measurement, Measurement):  # not while JAX rearranges it
            require_linear("ddrm", self.measurement, spectrum=True)

    def run(
        self,
        denoise: Model,
        x: Array,
        sigmas: Array,
        draw: Draw,
        *,
        return_path: bool,
    ) -> SampleResult:
        """Put ybar into the start, as eq. 7 does, and go over the grid.

        The noise around the origin is damped where y has noise of its own.
        """

        def rest(gram: Array) -> Array:
            left = 1 - _ratio(self.noise_std**2, gram) / sigmas[0] ** 2
            return _ratio(jnp.sqrt(left.clip(0)), gram)

        begun = self.begun(x)
        noise = x - begun
        pull = self.measurement.pseudo_inverse(self.gap(begun))
        start = begun + self._hidden(noise) + self._seen(noise, rest) + pull
        return super().run(denoise, start, sigmas, draw, return_path=return_path)

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        denoised, level = denoise(x, at.sigma), at.sigma_next
        z = draw(0, at.sigma, level)
        kept = jnp.sqrt(1 - jnp.asarray(self.eta, x.dtype) ** 2)
        hidden = level * (kept * slope(x, denoised, at.sigma) + self.eta * z)

        def noisier(gram: Array) -> Array:
            """Whether y has more noise there than the level: sigma_next < s / S."""
            return level**2 * gram < self.noise_std**2

        def take(gram: Array) -> Array:
            noise = jnp.asarray(self.noise_std, x.dtype)
            ratio = level * jnp.sqrt(gram) / jnp.where(noise > 0, noise, 1.0)
            return _ratio(jnp.where(noisier(gram), kept * ratio, self.eta_b), gram)

        def fresh(gram: Array) -> Array:
            left = level**2 - self.eta_b**2 * _ratio(self.noise_std**2, gram)
            std = jnp.where(noisier(gram), self.eta * level, jnp.sqrt(left.clip(0)))
            return _ratio(std, gram)

        pull = self.measurement.transpose(
            self.measurement.filter(self.gap(denoised), take)
        )
        moved = denoised + self._hidden(hidden) + pull + self._seen(z, fresh)
        return Step(moved, denoised, state)

    def _seen(self, x: Array, gain: Any) -> Array:
        """V gain(S^2) S^2 V' x: what of x is measured, filtered."""
        return self.measurement.transpose(
            self.measurement.filter(self.measurement(x), gain)
        )

    def _hidden(self, x: Array) -> Array:
        """The part of x that is not measured."""
        return x - self._seen(x, lambda gram: _ratio(jnp.ones_like(gram), gram))


def _ratio(a: Scalar, gram: Array) -> Array:
    """a / gram, 0 in directions that are not measured."""
    some = gram > 0
    return jnp.where(some, a / jnp.where(some, gram, 1.0), 0.0)


@pytree
class DiffPIR(Restoring):
    """Half-quadratic splitting along the reverse process (Zhu et al. 2023, alg. 1).

    D is moved to the minimum of |y - A x0|^2 / (2 s^2) + strength |x0 - D|^2 /
    (2 sigma^2), and noised to the next level, partly by fresh noise.

    Args:
        measurement: A, linear.
        y: what was measured, [batch, ...], or [1, ...] for all examples.
        noise_std: s, the standard deviation of the noise in y; 0 for none.
        strength: lambda, how much D counts; the paper's are 7 to 13, and 1 is the
            posterior of N(D, sigma^2).
        zeta: share of fresh noise, in variance.

    Raises: ValueError for a measurement that is not linear.
    """

    strength: Annotated[float, Positive] = dataclasses.field(default=8.0, kw_only=True)
    zeta: Annotated[float, Share] = dataclasses.field(default=0.5, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.measurement, Measurement):
            require_linear("diffpir", self.measurement)

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        denoised = denoise(x, at.sigma)
        shift = self.strength * (self.noise_std / at.sigma) ** 2
        nearer = denoised + self.measurement.lift(self.gap(denoised), 1.0, shift)
        eps, z = slope(x, nearer, at.sigma), draw(0, at.sigma, at.sigma_next)
        moved = renoised(nearer, eps, z, at.sigma_next, jnp.asarray(self.zeta, x.dtype))
        return Step(moved, denoised, state)


@pytree
class FlowDPS(Restoring):
    """Posterior sampling along a flow (Kim et al. 2025, alg. 1).

    With t = sigma / (1 + sigma) the time of the straight line, D goes a share t of the
    way to where a few steps down |y - A x0|^2 lead it; the noise that x shows is kept
    for a share t_next and is fresh for the rest. It does not know the noise in y.

    Args:
        measurement: A, linear or not.
        y: what was measured, [batch, ...], or [1, ...] for all examples.
        noise_std: not used.
        num_steps: steps down, of gradient descent.
        rate: their size; 1 / S^2 reaches y in one step where all S are alike.
    """

    num_steps: Annotated[int, at_least(1)] = dataclasses.field(
        default=3, kw_only=True, metadata={"static": True}
    )
    rate: Annotated[float, Positive] = dataclasses.field(default=1.0, kw_only=True)

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        denoised = denoise(x, at.sigma)
        eps, z = slope(x, denoised, at.sigma), draw(0, at.sigma, at.sigma_next)
        nearer = denoised
        for _ in range(self.num_steps):
            pull = self.measurement.pull(nearer, self.gap(nearer))
            nearer = nearer + self.rate * pull
        time, later = (s / (1 + s) for s in (at.sigma, at.sigma_next))
        mixed = denoised + expand_like(time, x) * (nearer - denoised)
        return Step(renoised(mixed, eps, z, at.sigma_next, 1 - later), denoised, state)
