"""Objectives of consistency models, which jump from any level to 0 in one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY
from functools import partial
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from score_sde.arrays import expand_like
from score_sde.fields import require, settings
from score_sde.flow_map import TO_ZERO, Reach
from score_sde.losses import DISTANCES, trigflow
from score_sde.losses.consistency import (
    PairWeight,
    consistency_loss,
    inverse_gap,
    of_upper,
)
from score_sde.losses.flow_maps import circle_velocity
from score_sde.losses.pairs import (
    doubling_levels,
    draw_log_normal_pair,
    draw_uniform_pair,
    growing_levels,
    shrinking_gap,
    target_decay,
)
from score_sde.losses.weights import edm, uniform
from score_sde.networks import LogVariance
from score_sde.noise_levels import NoiseLevels
from score_sde.rules import Finite, NonNegative, Positive, at_least, below, one_of
from score_sde.run.model import Model
from score_sde.run.objective import Batch, Context
from score_sde.run.students import Student, distance_of, ladder_of, noise_like
from score_sde.sde import SDE
from score_sde.types import Array, Key, Params


@settings
class DiscreteConsistency(Student):
    """The loss of pairs of levels, see `losses.consistency`.

    Attributes:
        distance: a name of `losses.DISTANCES`.
        c: of 'pseudo_huber'.
    """

    _: KW_ONLY
    distance: Annotated[str, one_of(DISTANCES)] = "pseudo_huber"
    c: Annotated[float, NonNegative] = 0.03

    def reach(self) -> Reach:
        return TO_ZERO

    def pair(self, key: Key, size: int, context: Context) -> tuple[Array, Array]:
        """Draw (sigma, lower), [batch] each."""
        raise NotImplementedError

    @property
    def weight_of_pair(self) -> PairWeight:
        """The weight of (sigma, lower)."""
        return inverse_gap

    def __call__(
        self, key: Key, params: Params, batch: Batch, context: Context
    ) -> Array:
        key_pair, key_eps = jr.split(key)
        x0 = batch.x0
        sigma, lower = (
            s.astype(x0.dtype) for s in self.pair(key_pair, len(x0), context)
        )
        has_target = self.target_decay(context.num_steps) is not None
        return consistency_loss(
            self.jump(params, context),
            self.jump(context.target if has_target else params, context),
            x0,
            noise_like(key_eps, x0),
            sigma,
            lower,
            distance=distance_of(self.distance, self.c),
            weight=self.weight_of_pair,
            teacher=self.teacher(context) if self.distils else None,
            cond=batch.cond,
        )


@settings
class Consistency(DiscreteConsistency):
    """Consistency models: distillation, or training from data (Song et al. 2023).

    Attributes:
        from_teacher: whether x at the lower level is reached by Heun's step of the
            teacher (distillation) or has the same noise (training).
        first: number of levels at the start.
        last: number of levels at the end; the first one to keep their number.
        decay: of the target's average at the start, mu_0; 0 for the student itself.
        rho: spacing of the levels.
    """

    sde: SDE
    from_teacher: bool = True
    first: Annotated[int, at_least(2)] = 18
    last: Annotated[int, at_least(2)] = 18
    decay: Annotated[float, below(1)] = 0.0
    rho: Annotated[float, Positive] = 7.0

    depends_on_num_steps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self, ("first at most last", lambda s: s.first <= s.last))

    @property
    def distils(self) -> bool:
        return self.from_teacher

    @property
    def weight_of_pair(self) -> PairWeight:
        return of_upper(uniform)

    def _count(self, step: Array, num_steps: int) -> Array:
        if self.first == self.last:
            return jnp.asarray(float(self.last))
        return growing_levels(step, num_steps, first=self.first, last=self.last)

    def target_decay(self, num_steps: int) -> Callable[[Array], Array] | None:
        if not self.decay:
            return None
        if self.first == self.last:
            return lambda step: jnp.asarray(self.decay)
        return lambda step: target_decay(
            self._count(step, num_steps), first=self.first, start=self.decay
        )

    def pair(self, key: Key, size: int, context: Context) -> tuple[Array, Array]:
        count = self._count(context.step, context.num_steps)
        return draw_uniform_pair(key, size, ladder_of(self.sde, self.rho), count)


@settings
class ImprovedConsistency(DiscreteConsistency):
    """Improved consistency training, from data alone (Song and Dhariwal 2024).

    Attributes:
        first: number of gaps between levels at the start, doubled again and again.
        last: number of gaps at the end.
        mean: of the log-normal by which pairs are drawn.
        std: of the same, in log sigma.
    """

    sde: SDE
    first: Annotated[int, at_least(1)] = 10
    last: Annotated[int, at_least(1)] = 1280
    mean: Annotated[float, Finite] = -1.1
    std: Annotated[float, Positive] = 2.0

    depends_on_num_steps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self, ("first at most last", lambda s: s.first <= s.last))

    @property
    def distils(self) -> bool:
        return False

    def pair(self, key: Key, size: int, context: Context) -> tuple[Array, Array]:
        count = doubling_levels(
            context.step, context.num_steps, first=self.first, last=self.last
        )
        ladder = ladder_of(self.sde)
        return draw_log_normal_pair(
            key, size, ladder, count, mean=self.mean, std=self.std
        )


@settings
class ConsistencyTuning(DiscreteConsistency):
    """Consistency tuning of a denoiser (Geng et al. 2025): the gap shrinks by stages.

    Attributes:
        noise_levels: where the upper level is drawn from.
        factor: by which the gap shrinks with each stage.
        stages: how many, of equal length.
        steepness: how much wider the gap is at low noise.
        pair_weight: 'inverse_gap', 1/(sigma - lower), as on CIFAR-10; or 'edm', that of
            a denoiser at sigma, as on ImageNet.
    """

    noise_levels: NoiseLevels
    sigma_data: float
    factor: Annotated[float, at_least(1)] = 4.0
    stages: Annotated[int, at_least(1)] = 4
    steepness: Annotated[float, NonNegative] = 8.0
    pair_weight: Annotated[str, one_of(("inverse_gap", "edm"))] = "inverse_gap"

    depends_on_num_steps: ClassVar[bool] = True

    @property
    def distils(self) -> bool:
        return False

    @property
    def weight_of_pair(self) -> PairWeight:
        if self.pair_weight == "inverse_gap":
            return inverse_gap
        return of_upper(partial(edm, sigma_data=self.sigma_data))

    def pair(self, key: Key, size: int, context: Context) -> tuple[Array, Array]:
        sigma = self.noise_levels.draw(key, size)
        share = context.step.astype(sigma.dtype) / context.num_steps
        stage = jnp.floor(share * self.stages)
        lower = shrinking_gap(
            sigma, stage, factor=self.factor, steepness=self.steepness
        )
        return sigma, lower


@settings
class ContinuousConsistency(Student):
    """Continuous-time consistency models, sCD and sCT (Lu and Song 2025).

    Attributes:
        noise_levels: where sigma is drawn from.
        from_teacher: whether the velocity is the teacher's (sCD) or that of data and
            noise (sCT).
        warm_up_steps: over which the tangent's unstable part comes in.
        offset: of the tangent's normalisation.
        prior_weight: whether the loss is divided by sigma, as published; without it
            small networks are more stable.
    """

    noise_levels: NoiseLevels
    sigma_data: float
    from_teacher: bool = True
    warm_up_steps: Annotated[int, NonNegative] = 10_000
    offset: Annotated[float, Positive] = 0.1
    prior_weight: bool = False

    @property
    def distils(self) -> bool:
        return self.from_teacher

    def reach(self) -> Reach:
        return TO_ZERO

    def init(self, key: Key, model: Model) -> Params:
        del model
        return {"log_variance": LogVariance.init(key)}

    def __call__(
        self, key: Key, params: Params, batch: Batch, context: Context
    ) -> Array:
        key_sigma, key_eps = jr.split(key)
        x0, scale = batch.x0, self.sigma_data
        sigma = self.noise_levels.draw(key_sigma, len(x0)).astype(x0.dtype)
        t = jnp.arctan(sigma / scale)
        cos, sin = (expand_like(f(t), x0) for f in (jnp.cos, jnp.sin))
        z = scale * noise_like(key_eps, x0)
        y, slope = cos * x0 + sin * z, cos * z - sin * x0
        if self.distils:
            teacher = self.teacher(context)
            slope = circle_velocity(teacher, y, t, scale, batch.cond)
        share = (context.step + 1) / max(1, self.warm_up_steps)
        loss = trigflow.continuous_consistency_loss(
            self.jump(params, context),
            y,
            slope,
            t,
            sigma_data=scale,
            warm_up=jnp.minimum(share, 1.0).astype(x0.dtype),
            offset=self.offset,
            cond=batch.cond,
        )
        u = partial(LogVariance.apply, params["log_variance"])(jnp.log(sigma))
        weight = 1 / sigma if self.prior_weight else np.float32(1)
        return weight * loss / jnp.exp(u) + u


CONSISTENCY: dict[str, Any] = {
    "consistency": Consistency,
    "improved_consistency": ImprovedConsistency,
    "consistency_tuning": ConsistencyTuning,
    "continuous_consistency": ContinuousConsistency,
}
