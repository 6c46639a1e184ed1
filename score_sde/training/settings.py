"""Settings of training: how long, and what is reported and kept on the way."""

from __future__ import annotations

import math
from typing import Annotated

from score_sde.fields import require, settings
from score_sde.rules import (
    NonNegative,
    Positive,
    PositiveOrInfinite,
    Share,
    at_least,
    between,
    each,
    one_of,
)
from score_sde.training.retention import Retention

FAILED_SAVES = ("stop", "continue")


@settings
class Training:
    """Settings of training.

    Attributes:
        num_steps: how many there are.
        condition_dropout: share of the examples whose condition is not told, for
            guidance (Ho and Salimans 2022).
        ema_halflife_steps: of the moving average of the parameters.
        ema_rampup_ratio: at most this share of the steps taken is that half-life; inf
            turns that off.
        log_every: steps between reports.
        sample_every: steps between pictures of samples and losses of held-out examples.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of the newest checkpoints are kept.
        keep_every: checkpoints whose step is a multiple of it are kept; 0 for none.
        keep_best: how many with the lowest test_loss are kept, which are sought among
            the checkpoints at which it is known.
        on_failed_save: whether training stops or continues where one can't be written.
        max_skipped: updates in a row whose loss or gradient is not finite, and which
            are therefore left out, before training gives up.
        spike_factor: a gradient as many times longer than the median of those before is
            reported, and a loss as many times further above theirs than is usual.
        rollback: whether training then goes on from the newest checkpoint, with the
            batches behind those of the spike.
        profile_steps: how many are traced into workdir/profile, soon after the start.
        power_ema_stds: relative widths of averages that are stored, from which
            `reconstruct-ema` makes those of other widths.
        snapshot_every: steps between stored averages.
    """

    num_steps: Annotated[int, at_least(1)]
    condition_dropout: Annotated[float, Share] = 0.0
    ema_halflife_steps: Annotated[float, Positive] = 500.0
    ema_rampup_ratio: Annotated[float, PositiveOrInfinite] = 0.05
    log_every: Annotated[int, at_least(1)] = 50
    sample_every: Annotated[int, at_least(1)] = 1000
    checkpoint_every: Annotated[int, at_least(1)] = 1000
    keep_checkpoints: Annotated[int, at_least(1)] = 2
    keep_every: Annotated[int, NonNegative] = 0
    keep_best: Annotated[int, NonNegative] = 0
    on_failed_save: Annotated[str, one_of(FAILED_SAVES)] = "stop"
    max_skipped: Annotated[int, NonNegative] = 10
    spike_factor: Annotated[float, between(1, math.inf)] = 100.0
    rollback: bool = False
    profile_steps: Annotated[int, NonNegative] = 0
    power_ema_stds: Annotated[tuple[float, ...], each(between(0, 0.28))] = ()
    snapshot_every: Annotated[int, at_least(1)] = 1000

    def __post_init__(self) -> None:
        require(
            self,
            (
                "checkpoint_every a multiple of sample_every for keep_best",
                lambda t: not t.keep_best or t.checkpoint_every % t.sample_every == 0,
            ),
        )

    @property
    def retention(self) -> Retention:
        """Which checkpoints are kept."""
        return Retention(self.keep_checkpoints, self.keep_every, self.keep_best)
