"""Objectives of students that also learn the divergence of their jumps.

A few of these, from the data up to the prior, give a likelihood
(`few_step_likelihood`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from score_sde.arrays import example_keys, per_example
from score_sde.few_step_likelihood import check_levels, evenly_apart
from score_sde.fields import require, settings
from score_sde.flow_map import FlowMap, Reach
from score_sde.losses.jump_divergences import (
    diagonal_divergence_loss,
    eulerian_divergence_loss,
    exact_probes,
    follow_density,
    lagrangian_divergence_loss,
    random_probes,
    semigroup_divergence_loss,
    stored_losses,
)
from score_sde.rules import NonNegative, Positive, at_least, each, up_to
from score_sde.run.model import Model
from score_sde.run.objective import Batch, Context
from score_sde.run.students import Student, ladder_of, uniform_like
from score_sde.run.students_flow_maps import Drawn, FlowMapMatching
from score_sde.run.students_teacher import in_parts, memory_problems
from score_sde.sde import SDE
from score_sde.types import Array, Denoise, Key, Params, UserError


@settings
class DirectLikelihood(Student):
    """Learn jumps up, and their divergence, from stored flows of the teacher.

    Before the first step the teacher's flow is followed from noise to data with its
    divergence, estimated by probes, and both are kept at a few levels. Of each example
    a number of jumps is drawn, 1 or more, and one of the jumps that a likelihood in so
    many takes. The student is of use for likelihoods alone.

    Attributes:
        levels: where jumps may begin and end, increasing; () for `num_levels` of them,
            even in log sigma between the ends of the SDE.
        num_levels: how many, where levels is ().
        num_trajectories: how many are stored, on every device.
        teacher_steps: Runge-Kutta steps of the teacher between two levels, of four
            evaluations each.
        num_probes: of the divergence of each trajectory; 0 for the exact one, which
            takes as many as there are dimensions.
        divergence_weight: of the squared error of the divergence, beside that of the
            jump.
    """

    sde: SDE
    sigma_data: float
    levels: Annotated[tuple[float, ...], each(Positive)] = ()
    num_levels: Annotated[int, at_least(2)] = 9
    num_trajectories: Annotated[int, at_least(1)] = 8_000
    teacher_steps: Annotated[int, at_least(1)] = 2
    num_probes: Annotated[int, NonNegative] = 1
    divergence_weight: Annotated[float, NonNegative] = 3.0

    trains_jumps: ClassVar[bool] = False
    two_levels: ClassVar[bool] = True
    learns_divergence: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(
            self,
            (
                "two or more levels that increase, or none",
                lambda s: (
                    len(s.levels) != 1 and all(np.diff(np.asarray(s.levels, float)) > 0)
                ),
            ),
        )

    def grid(self) -> np.ndarray:
        """The levels, increasing."""
        if self.levels:
            return np.asarray(self.levels, np.float64)
        ends = ladder_of(self.sde)
        return np.geomspace(ends.sigma_min, ends.sigma_max, self.num_levels)

    def reach(self) -> Reach:
        return Reach(tuple(float(s) for s in self.grid()), way="up")

    @property
    def most_jumps(self) -> int:  # type: ignore[override]
        return (len(self.levels) or self.num_levels) - 1

    def problems(self, model: Model) -> list[str]:
        count, kept = self.num_trajectories, self.most_jumps + 1
        return super().problems(model) + memory_problems(count, kept, model.shape)

    def prepare(self, context: Context, cond: Callable[[Any], Any], seed: int) -> Any:
        try:
            check_levels(jnp.asarray(self.grid()), self.sde)
        except ValueError as error:
            raise UserError(f"objective.levels: {error}") from None
        teacher, shape = self.teacher(context), context.model.shape
        levels = jnp.asarray(self.grid()[::-1].copy(), jnp.float32)

        def whole(keys: Key, told: Any) -> tuple[Array, Array]:
            noise, probes = jax.vmap(jr.split, out_axes=1)(keys)
            like = jnp.zeros((len(keys), *shape), jnp.float32)
            x = levels[0] * per_example(jr.normal, noise, like)
            v = probes_of(probes, x, self.num_probes)

            def step(carried: tuple[Array, Array], ends: Any) -> tuple[Any, Any]:
                x, gained = carried
                high, low = (jnp.full(len(x), end) for end in ends)
                x, more = follow_density(
                    *(teacher, x, high, low, v),
                    sigma_data=self.sigma_data,
                    num_steps=self.teacher_steps,
                    cond=told,
                )
                return (x, gained + more), (x, gained + more)

            start = x, jnp.zeros(len(x), x.dtype)
            _, rest = jax.lax.scan(step, start, (levels[:-1], levels[1:]))
            return jax.tree.map(
                lambda first, more: jnp.moveaxis(
                    jnp.concatenate([first[None], more])[::-1], 0, 1
                ),
                start,
                rest,
            )

        (x, gained), told = in_parts(whole, self.num_trajectories, cond, seed)
        return {"x": x, "gained": gained, "cond": told}

    def __call__(
        self, key: Key, params: Params, batch: Batch, context: Context
    ) -> Array:
        levels = jnp.asarray(self.grid(), batch.x0.dtype)
        most = len(levels) - 1
        places = jnp.stack(
            [
                jnp.pad(evenly_apart(most, count), (0, most - count), mode="edge")
                for count in range(1, most + 1)
            ]
        )

        def draw(key: Key) -> tuple[Array, Array, Array]:
            key_row, key_count, key_jump = jr.split(key, 3)
            row = jr.randint(key_row, (), 0, self.num_trajectories)
            count = jr.randint(key_count, (), 1, most + 1)
            which = jr.randint(key_jump, (), 0, count)
            return row, places[count - 1, which], places[count - 1, which + 1]

        row, start, end = jax.vmap(draw)(example_keys(key, len(batch.x0)))
        known, gained = (context.prepared[name] for name in ("x", "gained"))
        of_jump, of_divergence = stored_losses(
            self.jump(params, context),
            known[row, start],
            known[row, end],
            gained[row, end] - gained[row, start],
            levels[start],
            levels[end],
            jax.tree.map(lambda a: a[row], context.prepared["cond"]),
        )
        return of_jump + self.divergence_weight * of_divergence


@settings
class FlowMapLikelihood(FlowMapMatching):
    """Flow map matching of jumps and of their divergence (Ai et al. 2025).

    The divergence has the loss of the same identity, and that of the diagonal, where it
    is estimated by probes of the teacher's denoiser, or of the student's own. Jumps up
    are drawn evenly in log sigma; samples are drawn by jumps down.

    Attributes:
        share_up: of the examples whose jump goes up, as a likelihood needs it.
        num_probes: of the divergence of each example; 0 for the exact one.
        divergence_weight: of its squared errors, beside the loss of the jump.
    """

    share_up: Annotated[float, up_to(1)] = 0.75
    num_probes: Annotated[int, NonNegative] = 1
    divergence_weight: Annotated[float, NonNegative] = 1.0

    learns_divergence: ClassVar[bool] = True

    def reach(self) -> Reach:
        return Reach(way="up" if self.share_up == 1 else "both")

    def end(self, key: Key, t: Array, least: Array) -> Array:
        key_way, key_up, key_down = jr.split(key, 3)
        top = self.sde.sigma(self.sde.t_max).astype(t.dtype)
        sigma = self.sigma_data * jnp.tan(t)
        # A jump of no length has no mean divergence.
        way = jnp.maximum(jnp.log(top / sigma), 0.01)
        up = sigma * jnp.exp((0.01 + 0.99 * uniform_like(key_up, t)) * way)
        is_up = uniform_like(key_way, t) < self.share_up
        angle = jnp.arctan(up / self.sigma_data)
        return jnp.where(is_up, angle, super().end(key_down, t, least))

    def __call__(
        self, key: Key, params: Params, batch: Batch, context: Context
    ) -> Array:
        key_drawn, *keys = jr.split(key, 3)
        drawn = self.draw(key_drawn, batch)
        jump = self.jump(params, context)
        teacher = self.teacher(context) if self.distils else None
        there, off = (probes_of(k, drawn.x, self.num_probes) for k in keys)
        of_divergence = diagonal_divergence_loss(
            jump, drawn.x, drawn.sigma, there, teacher=teacher, cond=drawn.cond
        ) + self.of_divergence(jump, drawn, off, teacher)
        of_map = self.of_map(jump, drawn, teacher, context)
        return of_map + self.divergence_weight * of_divergence

    def of_divergence(
        self, jump: FlowMap, drawn: Drawn, probes: Array, teacher: Denoise | None
    ) -> Array:
        """The loss of the divergence off the diagonal, by the identity of the map."""
        x, sigma, cond = drawn.x, drawn.sigma, drawn.cond
        middle, end = (self.sigma_data * jnp.tan(a) for a in (drawn.middle, drawn.r))
        if self.method == "semigroup":
            return semigroup_divergence_loss(jump, jump, x, sigma, middle, end, cond)
        loss = {
            "lagrangian": lagrangian_divergence_loss,
            "eulerian": eulerian_divergence_loss,
        }[self.method]
        return loss(jump, x, sigma, end, probes, teacher=teacher, cond=cond)


def probes_of(key: Key, x: Array, num_probes: int) -> Array:
    """Random probes, or as many as dimensions where their number is 0."""
    return random_probes(key, x, num_probes) if num_probes else exact_probes(x)


LIKELIHOODS: dict[str, Any] = {
    "direct_likelihood": DirectLikelihood,
    "flow_map_likelihood": FlowMapLikelihood,
}
"""Objectives of students that learn what a likelihood in a few steps needs."""
