"""Settings of the evaluation of a trained model."""

from __future__ import annotations

import dataclasses

from score_sde.dequantisation import DEQUANTISERS
from score_sde.likelihood import DIVERGENCES
from score_sde.types import require


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How many samples, and how many at once; their contents don't depend on that.

    labels: the classes to draw, over and over; none means all. -1 is no class.
    """

    num_samples: int = 64
    batch_size: int = 64
    labels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(
            self,
            ("1 <= num_samples", lambda s: s.num_samples >= 1),
            ("1 <= batch_size", lambda s: s.batch_size >= 1),
        )


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How log-likelihoods are computed.

    dequantisation: truncated_normal is for models trained on centres, uniform for the
        others. repeats: passes over the data, each with fresh points and probes.
    num_checked: how many examples are solved three times more, with fresh points, with
        fresh probes and at a tenth of the tolerance, to split the error.
    bound_draws: noise levels at which each example's variational bound is measured.
    num_train: how many training examples to score beside all test examples, to see
        how far the model fits one better than the other.
    """

    divergence: str = "hutchinson"
    num_probes: int = 1
    dequantisation: str = "uniform"
    rtol: float = 1e-5
    atol: float = 1e-5
    batch_size: int = 60
    repeats: int = 1
    num_checked: int = 60
    bound_draws: int = 32
    num_train: int = 0

    def __post_init__(self) -> None:
        require(
            self,
            (
                f"divergence in {sorted(DIVERGENCES)}",
                lambda s: s.divergence in DIVERGENCES,
            ),
            ("1 <= num_probes", lambda s: s.num_probes >= 1),
            (
                f"dequantisation in {sorted(DEQUANTISERS)}",
                lambda s: s.dequantisation in DEQUANTISERS,
            ),
            ("0 < rtol < 1", lambda s: 0 < s.rtol < 1),
            ("0 < atol < 1", lambda s: 0 < s.atol < 1),
            ("1 <= batch_size", lambda s: s.batch_size >= 1),
            ("1 <= repeats", lambda s: s.repeats >= 1),
            ("2 <= num_checked", lambda s: s.num_checked >= 2),
            ("1 <= bound_draws", lambda s: s.bound_draws >= 1),
            ("0 <= num_train", lambda s: s.num_train >= 0),
        )
