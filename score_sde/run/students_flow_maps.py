"""Objectives of two-time flow maps, which jump between any two levels."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde.arrays import example_keys, expand_like, mean_over_data, where_example
from score_sde.fields import settings
from score_sde.flow_map import FlowMap, as_denoiser, as_jump
from score_sde.losses.distances import squared
from score_sde.losses.flow_maps import (
    average_velocity,
    circle_velocity,
    eulerian_loss,
    half_steps_target,
    lagrangian_loss,
    mean_flow_loss,
    semigroup_loss,
)
from score_sde.noise_levels import NoiseLevels
from score_sde.rules import Finite, NonNegative, Positive, Share, at_least, one_of
from score_sde.run.objective import Batch, Context
from score_sde.run.students import Student, noise_like, uniform_like
from score_sde.sde import SDE
from score_sde.types import Array, Denoise, Key, Params

VELOCITIES = ("data", "teacher")
METHODS = ("lagrangian", "eulerian", "semigroup")


@settings
class FlowMapStudent(Student):
    """Base of two-time objectives, whose student is a denoiser too.

    Attributes:
        velocity: what the flow is: 'data', learned from data and noise; or 'teacher'.
    """

    _: KW_ONLY
    velocity: Annotated[str, one_of(VELOCITIES)] = "teacher"

    two_levels: ClassVar[bool] = True
    trains_denoiser: ClassVar[bool] = True

    @property
    def distils(self) -> bool:
        return self.velocity == "teacher"

    def on_line(
        self, t: Array, x0: Array, eps: Array, cond: Any, context: Context
    ) -> tuple[Array, Array]:
        """(z, velocity) on the straight line at time t, by data or by the teacher."""
        time = expand_like(t, x0)
        z = (1 - time) * x0 + time * eps
        if not self.distils:
            return z, eps - x0
        return z, average_velocity(as_jump(self.teacher(context)), cond)(z, t, t)


def times(sigma: Array) -> Array:
    """Time on the straight line of a noise level, t = sigma/(1 + sigma)."""
    return sigma / (1 + sigma)


@settings
class MeanFlow(FlowMapStudent):
    """MeanFlow: the average velocity by its own derivative (Geng et al. 2025).

    Two times of the straight line are logit-normal: t is the larger of them, r the
    smaller, or t itself for a share of the examples. A jump is learned where it is
    drawn: the defaults, of the authors' program, draw most lower times near the data,
    where one step ends. With both times around the middle (the paper's -0.4 and 1) the
    whole way from noise to data is never drawn in pixels' levels, nor learned.

    Attributes:
        mean: of the logit of one time.
        std: of the same.
        lower_mean: of the logit of the other, which is the lower one mostly.
        lower_std: of the same.
        share_equal: of the examples whose two times are equal: there it is the
            denoiser's loss.
        power: of the weight 1 / (S + offset)^power of an example's squared error S. On
            the way down to r = 0 the error is that of dG/dt, which is 1 + sigma times
            that of dG/dlog sigma: the gradient goes with (1 + sigma)^(1 - 2 power), and
            0.5 lets all levels learn alike.
        offset: of that weight.
        own_tangent: whether the derivative follows the student's own velocity, as in
            the improved form (Geng et al. 2025b); else that of the data.
    """

    sde: SDE
    mean: Annotated[float, Finite] = -0.6
    std: Annotated[float, Positive] = 1.6
    lower_mean: Annotated[float, Finite] = -4.0
    lower_std: Annotated[float, Positive] = 1.6
    share_equal: Annotated[float, Share] = 0.25
    power: Annotated[float, NonNegative] = 0.75
    offset: Annotated[float, Positive] = 1e-3
    own_tangent: bool = False

    def __call__(
        self, key: Key, params: Params, batch: Batch, context: Context
    ) -> Array:
        key_times, key_eps, key_equal = jr.split(key, 3)
        x0 = batch.x0
        t, r = self._times(key_times, key_equal, x0)
        z, velocity = self.on_line(t, x0, noise_like(key_eps, x0), batch.cond, context)
        return mean_flow_loss(
            self.jump(params, context),
            z,
            velocity,
            t,
            r,
            power=self.power,
            offset=self.offset,
            own_tangent=self.own_tangent,
            cond=batch.cond,
        )

    def _times(self, key: Key, key_equal: Key, x0: Array) -> tuple[Array, Array]:
        keys = example_keys(key, len(x0))
        normal = jax.vmap(lambda k: jr.normal(k, (2,), x0.dtype))(keys)
        means = jnp.array([[self.mean, self.lower_mean]], x0.dtype)
        stds = jnp.array([[self.std, self.lower_std]], x0.dtype)
        top = times(self.sde.sigma(self.sde.t_max)).astype(x0.dtype)
        drawn = jnp.minimum(jax.nn.sigmoid(means + stds * normal), top)
        t, r = drawn.max(1), drawn.min(1)
        equal = uniform_like(key_equal, x0) < self.share_equal
        return t, jnp.where(equal, t, r)


@settings
class Shortcut(FlowMapStudent):
    """Shortcut models: one step equals two of half its size (Frans et al. 2024).

    Attributes:
        num_sizes: sizes of steps are 1, 1/2, ... 2^-num_sizes of the way.
        share_bootstrapped: of the examples that learn from two half steps of the
            averaged network; the others learn the velocity.
        bound: of the points and targets of the half steps, in units of the data.
    """

    sde: SDE
    num_sizes: Annotated[int, at_least(1)] = 7
    share_bootstrapped: Annotated[float, Share] = 0.25
    bound: Annotated[float, Positive] = 4.0

    def __call__(
        self, key: Key, params: Params, batch: Batch, context: Context
    ) -> Array:
        key_time, key_size, key_eps, key_choice = jr.split(key, 4)
        x0, cond = batch.x0, batch.cond
        taken = uniform_like(key_choice, x0) < self.share_bootstrapped
        number = jnp.floor(uniform_like(key_size, x0) * self.num_sizes)
        size = jnp.where(taken, 2.0**-number, 2.0**-self.num_sizes)
        index = jnp.floor(uniform_like(key_time, x0) / size)
        top = times(self.sde.sigma(self.sde.t_max)).astype(x0.dtype)
        t = jnp.minimum(1 - index * size, top)
        r = jnp.minimum(jnp.maximum(1 - (index + 1) * size, 0), t)
        z, velocity = self.on_line(t, x0, noise_like(key_eps, x0), cond, context)
        average = self.jump({**params, **context.average}, context)
        halves = half_steps_target(average, z, t, r, bound=self.bound, cond=cond)
        target = where_example(taken, halves, velocity)
        # Where the velocity is learned the jump is the denoiser.
        end = jnp.where(taken, r, t)
        u = average_velocity(self.jump(params, context), cond)(z, t, end)
        return squared(u, jax.lax.stop_gradient(target))


class Drawn(NamedTuple):
    """Noisy examples of a training step, and the jumps that they take."""

    x0: Array
    x: Array
    """x0 + sigma eps."""
    sigma: Array
    t: Array
    """The angle of sigma, atan(sigma / sigma_data), where jumps begin, [batch]."""
    middle: Array
    """An angle on the way."""
    r: Array
    """The angle where jumps end."""
    cond: Any


@settings
class FlowMapMatching(FlowMapStudent):
    """Self-distillation or distillation of a flow map (Boffi et al. 2025; Sabour 2025).

    Half of the loss is on the diagonal, where the jump is the denoiser; the other half
    is one of the map's own identities, between an angle t = atan(sigma / sigma_data)
    and a lower one drawn uniformly.

    Attributes:
        noise_levels: where the upper level is drawn from.
        method: 'lagrangian', 'eulerian' or 'semigroup'.
        diagonal: weight of the loss of the denoiser.
        warm_up_steps: of 'eulerian'.
    """

    noise_levels: NoiseLevels
    sigma_data: float
    sde: SDE
    method: Annotated[str, one_of(METHODS)] = "lagrangian"
    diagonal: Annotated[float, NonNegative] = 1.0
    warm_up_steps: Annotated[int, NonNegative] = 1_000

    def __call__(
        self, key: Key, params: Params, batch: Batch, context: Context
    ) -> Array:
        drawn = self.draw(key, batch)
        teacher = self.teacher(context) if self.distils else None
        return self.of_map(self.jump(params, context), drawn, teacher, context)

    def draw(self, key: Key, batch: Batch) -> Drawn:
        """Noisy examples, and where their jumps end."""
        key_sigma, key_eps, key_end, key_middle = jr.split(key, 4)
        x0, scale = batch.x0, self.sigma_data
        sigma = self.noise_levels.draw(key_sigma, len(x0)).astype(x0.dtype)
        least, top = (
            jnp.arctan(self.sde.sigma(end) / scale).astype(x0.dtype)
            for end in (self.sde.t_min, self.sde.t_max)
        )
        t = jnp.clip(jnp.arctan(sigma / scale), 1.01 * least, top)
        r = self.end(key_end, t, least)
        middle = r + uniform_like(key_middle, x0) * (t - r)
        sigma = scale * jnp.tan(t)
        x = x0 + expand_like(sigma, x0) * noise_like(key_eps, x0)
        return Drawn(x0, x, sigma, t, middle, r, batch.cond)

    def end(self, key: Key, t: Array, least: Array) -> Array:
        """The angles where jumps from t end, given the lowest one."""
        return least + uniform_like(key, t) * 0.99 * (t - least)

    def of_map(
        self, jump: FlowMap, drawn: Drawn, teacher: Denoise | None, context: Context
    ) -> Array:
        """The loss of the jump, on and off the diagonal."""
        x0, x, sigma, t, middle, r, cond = drawn
        scale = self.sigma_data
        y = expand_like(jnp.cos(t), x0) * x
        aim = x0 if teacher is None else teacher(x, sigma, cond)
        error = mean_over_data((jump(x, sigma, sigma, cond) - aim) ** 2)
        # On the circle: the squared error of the velocity, in units of the data.
        denoising = error / (jnp.sin(t) * scale) ** 2
        flow = teacher or as_denoiser(jump)
        if self.method == "lagrangian":
            off = lagrangian_loss(
                jump, y, t, r, sigma_data=scale, teacher=teacher, cond=cond
            )
        elif self.method == "eulerian":
            slope = circle_velocity(flow, y, t, scale, cond)
            share = (context.step + 1) / max(1, self.warm_up_steps)
            off = eulerian_loss(
                jump,
                y,
                t,
                r,
                jax.lax.stop_gradient(slope),
                sigma_data=scale,
                warm_up=jnp.minimum(share, 1.0).astype(x0.dtype),
                cond=cond,
            )
        else:
            off = semigroup_loss(
                jump, jump, y, t, middle, r, sigma_data=scale, cond=cond
            )
        return self.diagonal * denoising + off


FLOW_MAPS: dict[str, Any] = {
    "mean_flow": MeanFlow,
    "shortcut": Shortcut,
    "flow_map": FlowMapMatching,
}
