"""The optimiser: AdamW or Muon with warm-up, a schedule and clipping, from optax."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import jax
import numpy as np
import optax

from score_sde.fields import require, settings
from score_sde.networks.network import is_frozen, is_statistic
from score_sde.rules import (
    NonNegative,
    Positive,
    PositiveOrInfinite,
    at_least,
    below,
    one_of,
)

METHODS = ("adamw", "muon", "radam")
SCHEDULES = ("constant", "cosine", "inverse_sqrt")


@settings
class Optimizer:
    """Settings of the optimiser.

    `adamw`, or `muon` (Jordan et al. 2024): the update of each matrix and convolution
    is orthogonalised and given the size that AdamW's has; all other parameters follow
    AdamW with Nesterov momentum at adam_learning_rate. `radam` rectifies the variance
    of Adam's first steps (Liu et al. 2020), and has no decay of weights.

    The learning rate rises linearly over warmup_steps, then is constant, falls as half
    a cosine to 1 % at the last step, or falls as 1/sqrt(step / decay_start_steps). With
    `cycles` above 1 all of that happens as often, in equal parts of training.
    """

    method: Annotated[str, one_of(METHODS)] = "adamw"
    learning_rate: Annotated[float, Positive] = 2e-4
    adam_learning_rate: Annotated[float, Positive] = 2e-4
    warmup_steps: Annotated[int, NonNegative] = 0
    schedule: Annotated[str, one_of(SCHEDULES)] = "constant"
    decay_start_steps: Annotated[int, at_least(1)] = 1
    cycles: Annotated[int, at_least(1)] = 1
    clip_norm: Annotated[float, PositiveOrInfinite] = 1.0
    b1: Annotated[float, below(1)] = 0.9
    b2: Annotated[float, below(1)] = 0.999
    eps: Annotated[float, Positive] = 1e-8
    weight_decay: Annotated[float, NonNegative] = 0.0

    def __post_init__(self) -> None:
        require(
            self,
            (
                "weight_decay 0 with method 'radam'",
                lambda s: not s.weight_decay or s.method != "radam",
            ),
        )

    @property
    def depends_on_num_steps(self) -> bool:
        """Whether the learning rate of a step depends on how many there will be."""
        return self.schedule == "cosine" or self.cycles > 1


def make_schedule(
    settings: Optimizer, *, num_steps: int, peak: float | None = None
) -> optax.Schedule:
    """The learning rate as a function of the step; `peak` if it is another one."""
    if settings.cycles > 1:
        ends = np.linspace(0, num_steps, settings.cycles + 1).round().astype(int)
        once = dataclasses.replace(settings, cycles=1)
        parts = [
            make_schedule(once, num_steps=int(length), peak=peak)
            for length in np.diff(ends)
        ]
        return optax.join_schedules(parts, [int(end) for end in ends[1:-1]])
    peak = settings.learning_rate if peak is None else peak
    warmup = settings.warmup_steps
    after: optax.Schedule
    if settings.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, max(1, num_steps - warmup), 0.01)
    elif settings.schedule == "inverse_sqrt":
        start = settings.decay_start_steps
        after = lambda step: peak / (((step + warmup) / start).clip(1) ** 0.5)  # noqa: E731
    else:
        after = optax.constant_schedule(peak)
    # The first step already moves: warm-up counts from 1 to warmup_steps.
    rise = optax.linear_schedule(peak / max(1, warmup), peak, max(1, warmup - 1))
    return optax.join_schedules([rise, after], [warmup])


NO_GROUPS: Mapping[str, Optimizer] = MappingProxyType({})
REST, STATISTICS = "", "statistics"
"""Labels of the parameters of no group, and of those that are statistics."""


def make_group_optimizer(
    settings: Optimizer,
    params: Any,
    *,
    num_steps: int,
    groups: Mapping[str, Optimizer] = NO_GROUPS,
) -> optax.GradientTransformation:
    """The optimiser of parameters of which some have one of their own.

    Gradients of each group are clipped by the norm of that group. Statistics move by
    their gradients at a rate of 1.

    Args:
        settings: of the parameters of no group.
        params: or their shapes, a dict whose keys may name groups.
        num_steps: of training.
        groups: key of the parameters -> their settings.
    """

    def label(path: tuple[Any, ...], leaf: Any) -> str:
        del leaf
        if is_statistic(path):
            return STATISTICS
        name = str(getattr(path[0], "key", REST)) if path else REST
        return name if name in groups else REST

    labels = jax.tree_util.tree_map_with_path(label, params)
    if set(jax.tree.leaves(labels)) == {REST}:
        return make_optimizer(settings, num_steps=num_steps)
    made = {REST: settings, **groups}
    transforms: dict[Any, optax.GradientTransformation] = {
        name: make_optimizer(one, num_steps=num_steps) for name, one in made.items()
    }
    return optax.partition({**transforms, STATISTICS: optax.sgd(1.0)}, labels)


def make_optimizer(
    settings: Optimizer, *, num_steps: int
) -> optax.GradientTransformation:
    """Clipping by global norm, then the method at the scheduled rate."""
    rate = make_schedule(settings, num_steps=num_steps)
    if settings.method == "muon":
        update = optax.contrib.muon(
            rate,
            weight_decay=settings.weight_decay,
            adam_learning_rate=make_schedule(
                settings, num_steps=num_steps, peak=settings.adam_learning_rate
            ),
            adam_b1=settings.b1,
            adam_b2=settings.b2,
            eps=settings.eps,
            adam_weight_decay=settings.weight_decay,
            # The root mean square of AdamW's updates (Liu et al. 2025, sec. 2.2).
            consistent_rms=0.2,
            muon_weight_dimension_numbers=_matrices,
        )
    elif settings.method == "radam":
        update = optax.radam(rate, b1=settings.b1, b2=settings.b2, eps=settings.eps)
    else:
        update = optax.adamw(
            rate,
            b1=settings.b1,
            b2=settings.b2,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), update)


def _matrices(params: Any) -> Any:
    """How to read each parameter as a matrix of inputs and outputs; None if it isn't.

    The last axis is the output; embeddings of labels are rows, not a matrix.
    """

    def one(path: Any, leaf: Any) -> Any:
        is_kernel = getattr(path[-1], "key", None) == "kernel"
        if not is_kernel or leaf.ndim < 2 or is_frozen(path):
            return None
        return optax.contrib.MuonDimensionNumbers(
            reduction_axis=tuple(range(leaf.ndim - 1)), output_axis=(leaf.ndim - 1,)
        )

    return jax.tree_util.tree_map_with_path(one, params)
