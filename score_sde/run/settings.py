"""Settings of the data, of the loss and of the classifier that may guide."""

from __future__ import annotations

import dataclasses
import math

from score_sde.fields import require

POINTS = ("uniform", "centres", "variational")


@dataclasses.dataclass(frozen=True)
class Data:
    """Which data, and how they are fed.

    The data named 'files' are at `path`, a folder, .zip or .npz, with the test split at
    `test_path` (see `data/files.py`). Those with a name of TensorFlow Datasets are in
    `folder`, or where it keeps them by default. Those named 'absent' are not here: a
    model can draw them, and no more. Of 'files' and 'absent', the format is `shape` and
    num_levels (0 for points or latents), with the classes that the network knows; other
    data have theirs of themselves, but for the shape of images of many sizes.

    num_workers processes of each host read and decode ahead; see `data.batches`.

    sigma_data is the standard deviation of the scaled data, which EDM's preconditioner
    and weight need. Training sees each level as a point drawn from its bin, 'uniform',
    as the centre of its bin, 'centres', or where a flow that is trained with the
    network puts it, 'variational'. EDM's augmentation transforms each image in each way
    with augment_probability, and the network is told how.
    """

    name: str
    batch_size: int = 128
    random_flip: bool = False
    sigma_data: float = 0.5
    points: str = "uniform"
    augment_probability: float = 0.0
    shape: tuple[int, ...] = (32, 32, 3)
    num_levels: int = 256
    path: str = ""
    test_path: str = ""
    folder: str = ""
    num_workers: int = 0

    def __post_init__(self) -> None:
        require(
            self,
            ("1 <= batch_size", lambda d: d.batch_size >= 1),
            ("0 < sigma_data", lambda d: 0 < d.sigma_data < math.inf),
            (f"points in {POINTS}", lambda d: d.points in POINTS),
            (
                "0 <= augment_probability <= 1",
                lambda d: 0 <= d.augment_probability <= 1,
            ),
            ("shape of numbers > 0", lambda d: d.shape and min(d.shape) >= 1),
            ("0 <= num_levels <= 256", lambda d: 0 <= d.num_levels <= 256),
            ("a path if its name is 'files'", lambda d: d.path or d.name != "files"),
            ("0 <= num_workers", lambda d: d.num_workers >= 0),
        )


@dataclasses.dataclass(frozen=True)
class Told:
    """What the network is told of an image, beside the class or a caption of it.

    attributes: of `data/attributes.py`, which make a vector.
    image: what picture is made of the image: none, small (means over blocks of factor
        x factor pixels) or silhouette (where it is bright).
    """

    attributes: tuple[str, ...] = ()
    image: str = "none"
    factor: int = 2

    def __post_init__(self) -> None:
        require(self, ("1 <= factor", lambda t: t.factor >= 1))


@dataclasses.dataclass(frozen=True)
class Loss:
    """Options of the loss beside its weight and noise levels."""

    learn_log_variance: bool = False
    condition_dropout: float = 0.0
    """Share of the examples whose condition is not told, for guidance."""
    bound_weight: float = 0.0
    """Above 0, the hybrid loss of a network that predicts the variances of its chain,
    and how much its bound counts in it; 0.001 (Nichol and Dhariwal 2021)."""

    def __post_init__(self) -> None:
        require(
            self,
            ("0 <= condition_dropout <= 1", lambda c: 0 <= c.condition_dropout <= 1),
            ("0 <= bound_weight", lambda c: 0 <= c.bound_weight < math.inf),
        )


@dataclasses.dataclass(frozen=True)
class NoisyClassifier:
    """The classifier of noisy data that may guide samples, and its training.

    It is trained on the noise levels and with the input scaling of the model's network.
    """

    width: int = 256
    depth: int = 3
    dropout: float = 0.2
    num_steps: int = 4_000
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        require(
            self,
            ("1 <= width", lambda c: c.width >= 1),
            ("1 <= depth", lambda c: c.depth >= 1),
            ("0 <= dropout < 1", lambda c: 0 <= c.dropout < 1),
            ("1 <= num_steps", lambda c: c.num_steps >= 1),
            ("0 < learning_rate", lambda c: 0 < c.learning_rate < math.inf),
        )
