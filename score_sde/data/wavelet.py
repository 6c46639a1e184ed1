"""Parts of the wavelet pyramid of images as data: the stages of an exact likelihood.

Rows hold the whole images. Whoever draws a point of an image, by dequantisation, then
takes the part of a stage from it, and tells the network the coarse image of that same
point. A model sees coarse images as means over blocks, from -1 to 1, and details as
they are.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from score_sde.data.dataset import Dataset, Part
from score_sde.data.identity import described, digest_of_json, identity
from score_sde.data.smaller import smaller
from score_sde.data.units import Units
from score_sde.types import choices_text
from score_sde.wavelets import haar, inverse_haar, pyramid

COARSE, DETAILS = "coarse", "details"
PARTS = (COARSE, DETAILS)


def wavelet(images: Dataset, part: str, depth: int) -> Dataset:
    """Make the data set of one part of the wavelet pyramid of images.

    Args:
        images: of levels.
        part: 'coarse', or 'details', which lead from one coarse image to the next.
        depth: how often the sides were halved, for that coarse image.

    Raises:
        ValueError: for data that are no images of levels, an unknown part, and sides
            that can't be halved so often.
    """
    if part not in PARTS:
        raise ValueError(f"part is {part!r}{choices_text(part, PARTS)}.")
    small = smaller(images, 2**depth, "mean", 0)
    height, width, channels = small.shape
    # A coarse value is a mean over its block times the side of the block.
    side = float(2**depth)
    if part == COARSE:
        shape, units, shown = (
            small.shape,
            Units((0.0,) * channels, (side,) * channels),
            small,
        )
        taken = Part(images, partial(_mean, side=side), None, _itself, 1 / side)
    else:
        shape, units = (height, width, 3 * channels), Units()
        shown = images if depth == 1 else smaller(images, 2 ** (depth - 1), "mean", 0)
        taken = Part(
            images,
            partial(_details, depth=depth),
            partial(_mean, side=side),
            partial(_joined, side=side),
        )
    return Dataset(
        "wavelet",
        shape,
        None,
        images.num_classes,
        images.split,
        units,
        identify=partial(_identify, images, part, depth),
        origin=shown,
        part=taken,
    )


def _itself(coarse: Any, part: Any) -> Any:
    del coarse
    return part


def _mean(x: Any, *, side: float) -> Any:
    """Means over blocks of this side: the coarse image as a model sees it."""
    while side > 1:
        x, side = haar(x)[0] / 2, side / 2
    return x


def _details(x: Any, *, depth: int) -> Any:
    """Details of the last of `depth` steps."""
    return pyramid(x, depth).details[-1]


def _joined(coarse: Any, details: Any, *, side: float) -> Any:
    """The next finer image, as means over blocks of half the side."""
    return inverse_haar(side * coarse, details) / (side / 2)


def _identify(
    images: Dataset, part: str, depth: int, dataset: Dataset
) -> dict[str, Any]:
    known = identity(images)
    digest = digest_of_json([known["digest"], part, depth])
    return described(dataset, known["counts"], digest)
