"""Settings of the evaluation of a trained model."""

from __future__ import annotations

import dataclasses
import math

from score_sde.dequantisation import DEQUANTISATIONS
from score_sde.fields import require
from score_sde.likelihood import DIVERGENCES


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How many samples, and how many at once; their contents don't depend on that.

    labels: the classes to draw, over and over; none means all. -1 is no class.
    caption: what to draw instead, in words, of a network that reads.
    vector: the attributes that all samples are to have, in their own units, of a
        network that is told attributes; without them those of held-out images, in turn.
    image: a picture file, of which the picture is made that the network is told, of one
        that is told any; without it held-out images, in turn.
    """

    num_samples: int = 64
    batch_size: int = 64
    labels: tuple[int, ...] = ()
    caption: str = ""
    vector: tuple[float, ...] = ()
    image: str = ""

    def __post_init__(self) -> None:
        require(
            self,
            ("1 <= num_samples", lambda s: s.num_samples >= 1),
            ("1 <= batch_size", lambda s: s.batch_size >= 1),
        )


TASKS = ("image_to_image", "inpaint", "colourise", "super_resolve", "deblur")
METHODS = ("replace", "pseudo_inverse", "moment_matching", "dps")


@dataclasses.dataclass(frozen=True)
class Editing:
    """What is done to a picture, and how.

    image: a picture file; of super_resolve the small one, of deblur the blurred one.
    mask: of inpaint, a picture file that is white where the image is drawn anew.
    strength: of image_to_image, the share of the grid's steps that are taken.
    factor: of super_resolve. blur_std: of deblur, in pixels. noise_std: of the noise in
        the image, in units of the data, which go from -1 to 1.
    method: of `editing.py`; num_samples: how many results are drawn.
    """

    task: str = "image_to_image"
    image: str = ""
    mask: str = ""
    strength: float = 0.5
    factor: int = 2
    blur_std: float = 1.0
    noise_std: float = 0.0
    method: str = "pseudo_inverse"
    num_samples: int = 8

    def __post_init__(self) -> None:
        require(
            self,
            (f"task in {TASKS}", lambda s: s.task in TASKS),
            (f"method in {METHODS}", lambda s: s.method in METHODS),
            ("0 < strength <= 1", lambda s: 0 < s.strength <= 1),
            ("1 <= factor", lambda s: s.factor >= 1),
            ("0 < blur_std", lambda s: 0 < s.blur_std < math.inf),
            ("0 <= noise_std", lambda s: 0 <= s.noise_std < math.inf),
            (
                "a method that knows noise where noise_std > 0",
                lambda s: s.noise_std == 0 or s.method != "replace",
            ),
            ("1 <= num_samples", lambda s: s.num_samples >= 1),
        )


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How log-likelihoods are computed.

    dequantisation: truncated_normal is for models trained on centres, variational for
        those trained with a flow, uniform for the others.
    repeats: passes over the data, each with fresh points and probes.
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
                f"dequantisation in {sorted(DEQUANTISATIONS)}",
                lambda s: s.dequantisation in DEQUANTISATIONS,
            ),
            ("0 < rtol < 1", lambda s: 0 < s.rtol < 1),
            ("0 < atol < 1", lambda s: 0 < s.atol < 1),
            ("1 <= batch_size", lambda s: s.batch_size >= 1),
            ("1 <= repeats", lambda s: s.repeats >= 1),
            ("2 <= num_checked", lambda s: s.num_checked >= 2),
            ("1 <= bound_draws", lambda s: s.bound_draws >= 1),
            ("0 <= num_train", lambda s: s.num_train >= 0),
        )
