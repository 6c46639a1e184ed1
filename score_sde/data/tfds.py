"""Data sets by their names in TensorFlow Datasets, read without TensorFlow.

They are prepared once, as array_record files, by `experiments.prepare_data`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.data.dataset import Dataset, Format
from score_sde.data.decoded import Decoded, Record
from score_sde.data.identity import described, digest_of_json
from score_sde.data.local import local_path
from score_sde.types import UserError


class Known(NamedTuple):
    """Format and splits of a data set, known where it is not prepared."""

    shape: tuple[int, ...] | None
    """None if its images are cut and resized to `data.shape`; see `fit`."""
    num_classes: int
    test: str
    """Name of the split to test on; 'train' is trained on."""
    cut: int = 0
    """Side of the central square that is cut out; 0 for the largest."""


TEST, VALIDATION = "test", "validation"
TFDS: dict[str, Known] = {
    "mnist": Known((28, 28, 1), 10, TEST),
    "fashion_mnist": Known((28, 28, 1), 10, TEST),
    "kmnist": Known((28, 28, 1), 10, TEST),
    "cifar10": Known((32, 32, 3), 10, TEST),
    "cifar100": Known((32, 32, 3), 100, TEST),
    "svhn_cropped": Known((32, 32, 3), 10, TEST),
    "downsampled_imagenet/32x32": Known((32, 32, 3), 0, VALIDATION),
    "downsampled_imagenet/64x64": Known((64, 64, 3), 0, VALIDATION),
    "imagenet_resized/32x32": Known((32, 32, 3), 1000, VALIDATION),
    "imagenet_resized/64x64": Known((64, 64, 3), 1000, VALIDATION),
    "imagenet2012": Known(None, 1000, VALIDATION),
    # As Song et al. 2021 cut it; it has attributes, but no classes.
    "celeb_a": Known(None, 0, TEST, cut=140),
    "oxford_flowers102": Known(None, 102, TEST),
    "lsun/bedroom": Known(None, 0, VALIDATION),
    "lsun/bridge": Known(None, 0, VALIDATION),
    "lsun/church_outdoor": Known(None, 0, VALIDATION),
    "lsun/classroom": Known(None, 0, VALIDATION),
    "lsun/conference_room": Known(None, 0, VALIDATION),
    "lsun/dining_room": Known(None, 0, VALIDATION),
    "lsun/kitchen": Known(None, 0, VALIDATION),
    "lsun/living_room": Known(None, 0, VALIDATION),
    "lsun/restaurant": Known(None, 0, VALIDATION),
    "lsun/tower": Known(None, 0, VALIDATION),
    # These come without a split for tests: the last twentieth is held out.
    "celeb_a_hq/64": Known((64, 64, 3), 0, ""),
    "celeb_a_hq/128": Known((128, 128, 3), 0, ""),
    "celeb_a_hq/256": Known((256, 256, 3), 0, ""),
    "celeb_a_hq/512": Known((512, 512, 3), 0, ""),
    "celeb_a_hq/1024": Known((1024, 1024, 3), 0, ""),
    "lsun/cat": Known(None, 0, ""),
    "lsun/horse": Known(None, 0, ""),
}
HELD_OUT = {"train": "train[:95%]", "test": "train[95%:]"}


def tfds_set(name: str, shape: tuple[int, ...], folder: str) -> Dataset:
    """The data set of a name in `TFDS`.

    Args:
        name: of the data set.
        shape: of the examples, where the images are of many sizes.
        folder: the data_dir of TFDS; "" for its default.

    Raises:
        UserError: if the folder is an address such as gs://bucket/data.
    """
    known = TFDS[name]
    format = Format(known.shape or shape, 256, known.num_classes)
    place = str(local_path(folder, "data.folder")) if folder else ""
    return Dataset(
        name,
        *format,
        partial(_open, name, format, place),
        identify=partial(_identify, name, place),
    )


def builder(name: str, folder: str) -> Any:
    """TFDS's own object for a data set.

    Raises:
        UserError: if TFDS is not installed.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"data.name is {name!r}, which needs tensorflow-datasets: "
            f"pip install 'score_sde[tfds]' ({error})."
        ) from None
    return tfds.builder(name, data_dir=folder or None)


def _open(name: str, format: Format, folder: str, split: str) -> Decoded:
    made, known = _prepared(name, folder), TFDS[name]
    part = _parts(name)[split]
    try:
        source = made.as_data_source(split=part)
    except NotImplementedError as error:
        raise UserError(
            f"{name} in {made.data_path} is not in array_record files, which alone can "
            f"be read without TensorFlow: prepare it anew, in another folder ({error})."
        ) from None

    def records(index: list[int]) -> Iterator[Record]:
        for i, example in zip(index, source.__getitems__(index), strict=True):
            image = example["image"]
            if known.shape is None:
                image = fit(image, format.shape, known.cut)
            label = int(example["label"]) if format.num_classes else None
            yield Record(f"{name}, {part}, example {i}", image, label)

    return Decoded(format, len(source), records)


def _prepared(name: str, folder: str) -> Any:
    """TFDS's own object for a data set that is prepared.

    Raises:
        UserError: if it is not.
    """
    made = builder(name, folder)
    if not made.info.splits:
        raise UserError(
            f"{name} is not in {made.data_path}: prepare it by "
            "score-sde prepare-data with the same --config, or name the "
            "folder that has it by --config.data.folder."
        )
    return made


def _parts(name: str) -> dict[str, str]:
    """Split -> what it is called by TFDS."""
    test = TFDS[name].test
    return {"train": "train", "test": test} if test else HELD_OUT


def _identify(name: str, folder: str, dataset: Dataset) -> dict[str, Any]:
    """The identity of a data set, of what TFDS recorded when it prepared it.

    It is made of name and version, the digests of what was downloaded, and number and
    size of examples and files. No example is read.
    """
    made = _prepared(name, folder)
    place = Path(str(made.data_path))
    files = sorted((f.name, f.stat().st_size) for f in place.iterdir() if f.is_file())
    splits = {
        split: [info.num_bytes, list(info.shard_lengths)]
        for split, info in made.info.splits.items()
    }
    recorded = {
        "name": made.info.full_name,
        "downloads": sorted(info.checksum for info in made.url_infos.values()),
        "splits": splits,
        "files": files,
        "parts": _parts(name),
        "cut": TFDS[name].cut,
    }
    counts = {
        split: made.info.splits[part].num_examples
        for split, part in _parts(name).items()
    }
    return described(dataset, counts, digest_of_json(recorded))


def fit(image: np.ndarray, shape: tuple[int, ...], cut: int = 0) -> np.ndarray:
    """Cut out the central square of an image, and resize it by Lanczos' filter.

    Args:
        image: [height, width, channels].
        shape: of the result.
        cut: the side of the square; 0 for the shorter side of the image.
    """
    from PIL import Image

    side = cut or min(image.shape[:2])
    top, left = ((n - side) // 2 for n in image.shape[:2])
    square = Image.fromarray(image[top : top + side, left : left + side])
    height, width, _ = shape
    return np.asarray(square.resize((width, height), Image.Resampling.LANCZOS))
