"""Every source of data that a config can name, with its options."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from typing import Annotated, Any

from score_sde.data.dataset import ABSENT, Dataset, Format, absent
from score_sde.data.encoded import LATENTS, latents
from score_sde.data.files import FILES, described_files
from score_sde.data.idx import IDX, idx_files
from score_sde.data.images import digits, patches
from score_sde.data.local import OnThisMachine
from score_sde.data.points import checkerboard, mixture, rings, spirals
from score_sde.data.smaller import WAYS, smaller
from score_sde.data.tfds import TFDS, tfds_set
from score_sde.data.wavelet import PARTS, wavelet
from score_sde.fields import fields_of, value_problem
from score_sde.rules import Finite, NonNegative, Positive, Rule, at_least, each, one_of
from score_sde.types import UserError, choices_text

UpTo256 = Rule("from 0 to 256", lambda v: 0 <= v <= 256)
Shape = Annotated[tuple[int, ...], each(Positive, at_least_one=True)]
NumLevels = Annotated[int, UpTo256]
NumClasses = Annotated[int, NonNegative]
Path = Annotated[str, Rule("the path of a file or a folder", bool), OnThisMachine]
Place = Annotated[str, OnThisMachine]

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "patches": patches,
    "rings": rings,
    "checkerboard": checkerboard,
    "spirals": spirals,
    "mixture": mixture,
}
"""Name -> function from options to a data set. A user's own are added here."""


def from_files(
    *,
    path: Path = "",
    test_path: Place = "",
    shape: Annotated[tuple[int, ...], each(Positive)] = (),
    num_levels: Annotated[int | None, UpTo256] = None,
    num_classes: Annotated[int | None, NonNegative] = None,
    shift: Annotated[tuple[float, ...], each(Finite)] = (),
    scale: Annotated[tuple[float, ...], each(Positive)] = (),
) -> Dataset:
    """Data in files: a folder or .zip archive of pictures, or an .npz file of arrays.

    What is not stated is what the files say: an .npz file that prepare-data wrote says
    all of it, and must then be agreed with. The shape is otherwise that of the first
    example.

    Args:
        path: where the examples are.
        test_path: where those of the test split are; without it, every 20th example at
            `path` is held out.
        shape: of one example.
        num_levels: grey levels of the stored integers; 0 for points and latents. If it
            is not stated: 256 for pictures.
        num_classes: number of classes of the labels; 0 not to read them. If it is not
            stated, only the labels of prepare-data are read.
        shift: what is added to the scaled values for the user's units, one number for
            each entry of the last axis.
        scale: by what the values are multiplied before.

    Raises:
        UserError: if what is stated and what the files say disagree, or neither does.
    """
    if not path:
        raise UserError("path is missing: --config.data.path=PATH.")
    stated = {
        "shape": tuple(shape),
        "num_levels": num_levels,
        "num_classes": num_classes,
        "shift": tuple(shift),
        "scale": tuple(scale),
    }
    return described_files(path, stated, test_path)


def from_idx(
    *,
    folder: Path = "",
    prefix: str = "",
    shape: Annotated[tuple[int, ...], each(Positive)] = (),
    num_classes: Annotated[int | None, UpTo256] = None,
    first_label: Annotated[int, UpTo256] = 0,
    transposed: bool = False,
) -> Dataset:
    """Images in idx files, as MNIST, Fashion-MNIST, KMNIST and EMNIST come.

    Args:
        folder: where the four files are, as they are or as .gz.
        prefix: how their names begin, before 'train-images'; 'emnist-letters-'.
        shape: of one example; the files say it.
        num_classes: number of classes; 0 not to read labels. If it is not stated, the
            training labels say it.
        first_label: the label of the first class; EMNIST's letters begin at 1.
        transposed: whether columns are stored as rows, as in EMNIST.
    """
    if not folder:
        raise UserError("folder is missing: --config.data.folder=FOLDER.")
    return idx_files(folder, prefix, tuple(shape), num_classes, first_label, transposed)


def from_latents(
    *,
    path: Path = "",
    shift: Annotated[tuple[float, ...], each(Finite)] = (),
    scale: Annotated[tuple[float, ...], each(Positive)] = (),
    on_the_fly: bool = False,
    decoder_std: Annotated[float, NonNegative] = 0.0,
) -> Dataset:
    """Latents that `score-sde encode` wrote, for a run with companion autoencoder.

    Args:
        path: the folder that it wrote.
        shift: what a model sees as 0, of each channel, or one number; without it the
            mean, or 0 if the scale is stated.
        scale: what a model sees as 1, of each channel, or one number; without it the
            standard deviation. A published factor f is the scale 1 / f.
        on_the_fly: whether images are encoded as they are read, so that no files of
            latents are needed.
        decoder_std: deviation of the decoder's Gaussian in the likelihood of images; 0
            for the root mean squared error on training images, which an autoencoder
            that has overfitted makes too small.
    """
    if not path:
        raise UserError("path is missing: --config.data.path=FOLDER.")
    return latents(
        path,
        shift,
        scale,
        on_the_fly,
        decoder_std,
        source=lambda name, options: SOURCES[name](**options),
    )


def not_here(
    *,
    shape: Shape = (32, 32, 3),
    num_levels: NumLevels = 256,
    num_classes: NumClasses = 0,
) -> Dataset:
    """Data whose format alone is known: a model can draw them, and no more.

    Args:
        shape: of one example.
        num_levels: grey levels of the stored integers; 0 for points and latents.
        num_classes: number of classes of the labels; 0 for none.
    """
    return absent(Format(shape, num_levels or None, num_classes))


def from_smaller(
    *,
    source: dict[str, Any],
    factor: Annotated[int, at_least(2)] = 2,
    method: Annotated[str, one_of(WAYS)] = "mean",
    num_levels: NumLevels = 0,
) -> Dataset:
    """Images made smaller, for the first stage of a cascade.

    Args:
        source: the name and the options of the source of the images, a section of its
            own: {"name": "digits"}.
        factor: by which both sides are divided.
        method: 'mean' over blocks, or a kernel with antialiasing, as Pillow's.
        num_levels: grey levels that they are rounded to; 0 for those of the images.
    """
    return smaller(_images(source), factor, method, num_levels)


def from_wavelet(
    *,
    source: dict[str, Any],
    part: Annotated[str, one_of(PARTS)],
    depth: Annotated[int, at_least(1)] = 1,
) -> Dataset:
    """One part of the orthonormal wavelet pyramid of images, a stage of a cascade.

    Args:
        source: the name and the options of the source of the images, a section of its
            own: {"name": "digits"}.
        part: 'coarse', or the 'details' that lead from one coarse image to the next.
        depth: how often the sides are halved, for the coarse image.
    """
    return wavelet(_images(source), part, depth)


def _images(source: Any) -> Dataset:
    """The data set of a section inside a section.

    Raises: UserError for an unknown name, and options that are missing or wrong.
    """
    name = source.get("name") if isinstance(source, dict) else None
    if not isinstance(name, str) or name not in SOURCES:
        raise UserError(f"source.name is {name!r}{choices_text(name, SOURCES)}.")
    options, fields = {**source}, fields_of(SOURCES[name])
    options.pop("name")
    for option, value in options.items():
        if option not in fields:
            hint = choices_text(option, fields)
            raise UserError(f"source.{option}: no such field{hint}.")
        if problem := value_problem(fields[option], value):
            raise UserError(f"source.{option} is {value!r}{problem}.")
    return SOURCES[name](**options)


def _tfds_source(name: str) -> Callable[..., Dataset]:
    """Make the source of a name of TensorFlow Datasets.

    One whose images are of many sizes has the shape as an option.
    """

    def of_one_size(*, folder: Place = "") -> Dataset:
        return tfds_set(name, (), folder)

    def of_any_size(*, shape: Shape = (32, 32, 3), folder: Place = "") -> Dataset:
        return tfds_set(name, shape, folder)

    return of_any_size if TFDS[name].shape is None else of_one_size


def is_prepared_by_tfds(name: str) -> bool:
    """Whether a source is one of TensorFlow Datasets, which prepares it once."""
    return name in TFDS


SOURCES: ChainMap[str, Callable[..., Dataset]] = ChainMap(
    DATASETS,
    {FILES: from_files, IDX: from_idx, LATENTS: from_latents, ABSENT: not_here},
    {"smaller": from_smaller, "wavelet": from_wavelet},
    {name: _tfds_source(name) for name in TFDS},
)
"""Name -> function from options to a data set: `DATASETS`, files and all others."""
