"""The optimiser: AdamW with warm-up, a schedule and clipping, from optax."""

from __future__ import annotations

import dataclasses
import math

import optax

from score_sde.types import require

SCHEDULES = ("constant", "cosine", "inverse_sqrt")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Settings of the optimiser.

    The learning rate rises linearly over warmup_steps, then is constant, falls as half
    a cosine to 1 % at the last step, or falls as 1/sqrt(step / decay_start_steps).
    """

    learning_rate: float = 2e-4
    warmup_steps: int = 0
    schedule: str = "constant"
    decay_start_steps: int = 1
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        require(
            self,
            ("0 < learning_rate", lambda o: 0 < o.learning_rate < math.inf),
            ("0 <= warmup_steps", lambda o: o.warmup_steps >= 0),
            (f"schedule in {SCHEDULES}", lambda o: o.schedule in SCHEDULES),
            ("1 <= decay_start_steps", lambda o: o.decay_start_steps >= 1),
            ("0 < clip_norm (inf for none)", lambda o: o.clip_norm > 0),
            ("0 <= b1 < 1", lambda o: 0 <= o.b1 < 1),
            ("0 <= b2 < 1", lambda o: 0 <= o.b2 < 1),
            ("0 < eps", lambda o: 0 < o.eps < math.inf),
            ("0 <= weight_decay", lambda o: 0 <= o.weight_decay < math.inf),
        )


def make_schedule(settings: Optimizer, *, num_steps: int) -> optax.Schedule:
    """The learning rate as a function of the step."""
    peak, warmup = settings.learning_rate, settings.warmup_steps
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


def make_optimizer(
    settings: Optimizer, *, num_steps: int
) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW at the scheduled rate."""
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.adamw(
            make_schedule(settings, num_steps=num_steps),
            b1=settings.b1,
            b2=settings.b2,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        ),
    )
