"""Every source of data that a config can name, with its options."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from typing import Annotated

from score_sde.data.dataset import ABSENT, Dataset, Format, absent
from score_sde.data.files import FILES, files
from score_sde.data.images import digits, patches
from score_sde.data.points import checkerboard, mixture, rings, spirals
from score_sde.data.tfds import TFDS, tfds_set
from score_sde.fields import NonNegative, Positive, Rule, each

Shape = Annotated[tuple[int, ...], each(Positive, at_least_one=True)]
NumLevels = Annotated[int, Rule("from 0 to 256", lambda v: 0 <= v <= 256)]
NumClasses = Annotated[int, NonNegative]
Path = Annotated[str, Rule("the path of a file or a folder", bool)]

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "patches": patches,
    "rings": rings,
    "checkerboard": checkerboard,
    "spirals": spirals,
    "mixture": mixture,
}
"""Name -> function that makes the data set of its options; a user's own are added."""


def from_files(
    *,
    path: Path,
    test_path: str = "",
    shape: Shape = (32, 32, 3),
    num_levels: NumLevels = 256,
    num_classes: NumClasses = 0,
) -> Dataset:
    """Data in files: a folder or .zip archive of pictures, or an .npz file of arrays.

    Args:
        path: where the examples are.
        test_path: where those of the test split are; without it, every 20th example at
            `path` is held out.
        shape: of one example.
        num_levels: grey levels of the stored integers; 0 for points and latents.
        num_classes: of the labels that come with the examples; 0 for none.
    """
    format = Format(shape, num_levels or None, num_classes)
    return files(format, path, test_path)


def not_here(
    *,
    shape: Shape = (32, 32, 3),
    num_levels: NumLevels = 256,
    num_classes: NumClasses = 0,
) -> Dataset:
    """Data whose format alone is known: a model can draw them, and no more."""
    return absent(Format(shape, num_levels or None, num_classes))


def _tfds_source(name: str) -> Callable[..., Dataset]:
    """The data of a name of TensorFlow Datasets; images of many sizes take a shape."""

    def of_one_size(*, folder: str = "") -> Dataset:
        return tfds_set(name, (), folder)

    def of_any_size(*, shape: Shape = (32, 32, 3), folder: str = "") -> Dataset:
        return tfds_set(name, shape, folder)

    return of_any_size if TFDS[name].shape is None else of_one_size


def is_prepared_by_tfds(name: str) -> bool:
    """Whether a source is TensorFlow Datasets', which prepares it once."""
    return name in TFDS


SOURCES: ChainMap[str, Callable[..., Dataset]] = ChainMap(
    DATASETS,
    {FILES: from_files, ABSENT: not_here},
    {name: _tfds_source(name) for name in TFDS},
)
"""`DATASETS`, data in files, absent data, and those of TensorFlow Datasets."""
