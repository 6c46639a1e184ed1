"""Marks of metrics: what they read, and of which data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
Kind = Literal["features", "moments", "logits", "training"]


def reads(*kinds: Kind) -> Callable[[F], F]:
    """Say what a metric (real, fake, ...) reads. Without it, that is features alone.

    Args:
        kinds: "features" [examples, dims] of both sides; "moments" beside them, if
            `real` may be `Statistics` or `Moments` instead; "logits" [examples,
            classes] of both sides, in place of features; "training" beside features, if
            `real` is the training split, whatever else samples are held against, and
            `held_out` the test split: such a metric asks for copies.

    Raises: ValueError for "training" beside "logits".
    """
    if {"logits", "training"} <= set(kinds):
        raise ValueError("reads: 'training' goes with 'features', not with 'logits'.")

    def marked(metric: F) -> F:
        metric.__dict__["reads"] = kinds
        return metric

    return marked


def reads_of(metric: Callable[..., Any]) -> tuple[Kind, ...]:
    """Return the kinds that a metric reads, also of one whose options are bound."""
    while isinstance(metric, partial):
        metric = metric.func
    return getattr(metric, "reads", ("features",))
