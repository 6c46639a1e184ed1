"""Objectives of students that learn where the steps of their teacher lead."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from score_sde.arrays import example_keys, expand_like, per_example
from score_sde.fields import require, settings
from score_sde.flow_map import Reach, carry, jump_between
from score_sde.losses import DISTANCES, Weight
from score_sde.losses.consistency import heun_step
from score_sde.losses.distances import squared
from score_sde.losses.flow_maps import progressive_target
from score_sde.losses.pairs import halving_steps
from score_sde.rules import NonNegative, Positive, at_least, each, one_of
from score_sde.run.model import Model
from score_sde.run.objective import Batch, Context
from score_sde.run.students import (
    Student,
    distance_of,
    ladder_of,
    noise_like,
    uniform_like,
)
from score_sde.runtime.progress import with_bar
from score_sde.samplers import sample
from score_sde.sde import SDE
from score_sde.types import Array, Denoise, Key, Params

MOST_MEMORY = 2**30
"""Bytes of trajectories that are kept on a device, at most."""
PART = 500
"""Trajectories that are computed at once."""


@settings
class Progressive(Student):
    """Halve the number of steps, stage by stage (Salimans and Ho 2022).

    In the first stage each step is taught by several of the teacher, in every later one
    by two of the student of the stage before. What is trained takes the steps of its
    last stage, and no others.

    Attributes:
        levels: where the steps of the first stage begin, decreasing; () for `first`
            levels of Karras' grid between the ends of the SDE. Their number is `last`
            times a power of two.
        first: number of steps of the first stage, where levels is ().
        last: number of steps of the last stage.
        teacher_steps: Heun's steps of the teacher for one of the first stage.
        slow: stages of so many steps or fewer are twice as long as the others.
    """

    weight: Weight
    sde: SDE
    levels: Annotated[tuple[float, ...], each(Positive)] = ()
    first: Annotated[int, at_least(1)] = 4
    last: Annotated[int, at_least(1)] = 1
    teacher_steps: Annotated[int, at_least(1)] = 2
    slow: Annotated[int, NonNegative] = 0

    depends_on_num_steps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(
            self,
            (
                "levels that decrease",
                lambda s: all(np.diff(np.asarray(s.levels, float)) < 0),
            ),
            (
                "a number of levels that is `last` times a power of two",
                lambda s: (
                    math.log2(s.count / s.last).is_integer() and s.count >= s.last
                ),
            ),
        )

    @property
    def count(self) -> int:
        """The number of steps of the first stage."""
        return len(self.levels) or self.first

    def grid(self) -> Float[np.ndarray, " levels"]:
        """The levels of the first stage, and 0."""
        share = np.linspace(0, 1, self.count + 1)[:-1]
        levels = self.levels or ladder_of(self.sde).level(share)
        return np.append(np.asarray(levels), 0.0)

    def reach(self) -> Reach:
        grid = self.grid()[:: self.count // self.last]
        return Reach(tuple(float(s) for s in grid), "next")

    def target_decay(self, num_steps: int) -> Callable[[Array], Array]:
        """1 but at the start of a stage, where the target becomes the student."""

        def decay(step: Array) -> Array:
            now, before = (self._steps(s, num_steps) for s in (step, step - 1))
            return jnp.where(now == before, 1.0, 0.0)

        return decay

    def _steps(self, step: Array, num_steps: int) -> Array:
        return halving_steps(
            jnp.maximum(step, 0),
            num_steps,
            first=self.count,
            last=self.last,
            slow=self.slow,
        )

    def __call__(
        self, key: Key, params: Params, batch: Batch, context: Context
    ) -> Array:
        key_index, key_eps = jr.split(key)
        x0, cond = batch.x0, batch.cond
        grid = jnp.asarray(self.grid(), x0.dtype)
        count = self._steps(context.step, context.num_steps).astype(x0.dtype)
        stride = jnp.round(self.count / count).astype(jnp.int32)
        u = uniform_like(key_index, x0)
        index = stride * jnp.floor(u * count).astype(jnp.int32)
        sigma, lower = grid[index], grid[index + stride]
        middle = grid[index + stride // 2]
        x = x0 + expand_like(sigma, x0) * noise_like(key_eps, x0)

        def by_teacher() -> Array:
            reached = follow(
                self.teacher(context), x, sigma, lower, self.teacher_steps, cond
            )
            return jump_between(x, reached, sigma, lower)

        def by_student() -> Array:
            before = self.jump(context.target, context)

            def step(x: Array, sigma: Array, lower: Array) -> Array:
                return carry(before, x, sigma, lower, cond)

            return progressive_target(step, x, sigma, middle, lower)

        is_first = count == self.count
        target = jax.lax.cond(is_first, by_teacher, by_student)
        predicted = self.jump(params, context)(x, sigma, lower, cond)
        return self.weight(sigma) * squared(predicted, jax.lax.stop_gradient(target))


def follow(
    denoise: Denoise, x: Array, sigma: Array, lower: Array, steps: int, cond: Any = None
) -> Array:
    """Carry x down the flow by a number of Heun's steps, levels per example.

    They are even in sigma^(1/7), Karras' spacing; a last one to 0 is Euler's.
    """
    for number in range(steps):
        ends = (
            ((steps - k) * sigma ** (1 / 7) + k * lower ** (1 / 7)) / steps
            for k in (number, number + 1)
        )
        high, low = (end**7 for end in ends)
        x = heun_step(denoise, x, high, low, cond)
    return x


@settings
class Direct(Student):
    """Learn from stored trajectories of the teacher (Luhman and Luhman 2021).

    Before the first step the teacher's flow is followed from noise to data, and kept at
    a few levels. The student learns all jumps between them, told where each ends; of
    one level, 80, it learns the sample itself.

    Attributes:
        levels: where jumps may begin, decreasing; the first is where sampling starts.
        num_trajectories: how many are stored, on every device.
        teacher_steps: Heun's steps of the teacher from each level to the next.
        distance: a name of `losses.DISTANCES`.
        c: of 'pseudo_huber'.
    """

    levels: Annotated[tuple[float, ...], each(Positive)] = (80.0,)
    num_trajectories: Annotated[int, at_least(1)] = 16_000
    teacher_steps: Annotated[int, at_least(1)] = 8
    sigma_min: Annotated[float, Positive] = 0.002
    distance: Annotated[str, one_of(DISTANCES)] = "pseudo_huber"
    c: Annotated[float, NonNegative] = 0.03

    def __post_init__(self) -> None:
        require(
            self,
            ("at least one level", lambda s: len(s.levels) > 0),
            (
                "levels that decrease, the last above sigma_min",
                lambda s: all(np.diff(np.asarray([*s.levels, s.sigma_min])) < 0),
            ),
        )

    @property
    def two_levels(self) -> bool:  # type: ignore[override]
        return len(self.levels) > 1

    def reach(self) -> Reach:
        return Reach((*self.levels, 0.0))

    def problems(self, model: Model) -> list[str]:
        count, kept = self.num_trajectories, len(self.levels) + 1
        return super().problems(model) + memory_problems(count, kept, model.shape)

    def prepare(self, context: Context, cond: Callable[[Any], Any], seed: int) -> Any:
        teacher, shape = self.teacher(context), context.model.shape

        def whole(keys: Key, told: Any) -> Array:
            like = jnp.zeros((len(keys), *shape), jnp.float32)
            x = self.levels[0] * per_example(jr.normal, keys, like)
            kept = [x]
            for high, low in zip(self.levels, (*self.levels[1:], 0.0), strict=True):
                x = sample("heun", teacher, x, self._between(high, low), cond=told).x
                kept.append(x)
            return jnp.stack(kept, axis=1)

        x, told = in_parts(whole, self.num_trajectories, cond, seed)
        return {"x": x, "cond": told}

    def _between(self, high: float, low: float) -> Array:
        """Karras' grid from one level to a lower one, 0 reached from sigma_min."""
        least = low or self.sigma_min
        top, bottom = (s ** (1 / 7) for s in (high, least))
        levels = np.linspace(top, bottom, self.teacher_steps + (low > 0)) ** 7
        return jnp.asarray(levels if low else np.append(levels, 0.0))

    def __call__(
        self, key: Key, params: Params, batch: Batch, context: Context
    ) -> Array:
        count, size = len(self.levels), len(batch.x0)
        keys = example_keys(key, size)

        def draw(key: Key) -> tuple[Array, Array, Array]:
            key_row, key_start, key_end = jr.split(key, 3)
            row = jr.randint(key_row, (), 0, self.num_trajectories)
            start = jr.randint(key_start, (), 0, count)
            return row, start, start + 1 + jr.randint(key_end, (), 0, count - start)

        row, start, end = jax.vmap(draw)(keys)
        known = context.prepared["x"]
        x, reached = known[row, start], known[row, end]
        levels = jnp.asarray((*self.levels, 0.0), x.dtype)
        sigma, lower = levels[start], levels[end]
        cond = jax.tree.map(lambda a: a[row], context.prepared["cond"])
        target = jump_between(x, reached, sigma, lower)
        predicted = self.jump(params, context)(x, sigma, lower, cond)
        return distance_of(self.distance, self.c)(predicted, target)


def in_parts(
    whole: Callable[[Key, Any], Any], count: int, cond: Callable[[Any], Any], seed: int
) -> tuple[Any, Any]:
    """Compute trajectories in parts that are compiled once: (they, their conditions).

    Args:
        whole: (keys, conditions) -> arrays of these trajectories.
        count: how many there are.
        cond: numbers of trajectories -> what they are told, or None.
        seed: of the config.
    """
    size = min(PART, count)
    keys = example_keys(jr.fold_in(jr.key(seed), 9), count)
    compiled, parts, told = jax.jit(whole), [], []
    for first in with_bar("the teacher's trajectories", range(0, count, size)):
        index = np.arange(first, first + size) % count
        told.append(cond(index))
        parts.append(jax.block_until_ready(compiled(keys[index], told[-1])))
    return _joined(parts, count=count), _joined(told, count=count)


def memory_problems(count: int, kept: int, shape: tuple[int, ...]) -> list[str]:
    """Why so many trajectories, at so many levels each, can't be kept, a text each."""
    size = 4 * count * kept * math.prod(shape)
    if size <= MOST_MEMORY:
        return []
    return [
        f"num_trajectories is {count:,}; they would take {size / 2**30:.1f} GiB of "
        "each device, more than 1"
    ]


def _joined(parts: list[Any], *, count: int) -> Any:
    """Parts of arrays, one behind the other, cut to a number of examples."""
    return jax.tree.map(lambda *a: jnp.concatenate(a)[:count], *parts)
