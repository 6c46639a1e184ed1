"""Preparing a data set of TensorFlow Datasets, and surveying all of any data set."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_sde.data.dataset import Dataset
from score_sde.data.scaling import centres
from score_sde.data.tfds import builder
from score_sde.data.tfds_by_python import WITHOUT_TENSORFLOW
from score_sde.types import UserError

BLOCK = 1_000
"""Examples that are read at a time."""


def prepare(name: str, folder: str) -> None:
    """Download a data set of `tfds.TFDS` and write it as array_record files.

    Nothing happens if that was done before. CIFAR and MNIST's family are prepared
    without TensorFlow; most others need it, once.

    Args:
        name: of the data set.
        folder: the data_dir of TFDS; "" for its default.

    Raises:
        UserError: if that fails, with what to do about it.
    """
    made = builder(name, folder)
    if made.info.splits:
        return
    kind = WITHOUT_TENSORFLOW.get(name, lambda kind: kind)(type(made))
    config = made.builder_config
    made = kind(
        data_dir=folder or None,
        config=config.name if config else None,
        file_format="array_record",
    )
    try:
        made.download_and_prepare()
    except ImportError as error:
        raise UserError(
            f"{name} can't be prepared without TensorFlow, which reading it does not "
            f"need: pip install tensorflow-cpu, and try again ({error})."
        ) from None
    except Exception as error:  # whatever a network or a data set's own program has
        raise UserError(
            f"{name} could not be prepared: {type(error).__name__}: "
            f"{' '.join(str(error).split())} What it downloads may be put into "
            f"{folder or '~/tensorflow_datasets'}/downloads/manual by hand; TFDS "
            "checks it by its digest."
        ) from error


def survey(
    dataset: Dataset, split: str, *, progress: Callable[[int], None]
) -> dict[str, Any]:
    """Read and check all examples of a split, and describe them.

    Args:
        dataset: whose split is read.
        split: 'train' or 'test'.
        progress: called with the number of examples that are read so far.

    Returns:
        The number of examples, mean and standard deviation of the values as a network
        sees them, in [-1, 1], and of labelled data the examples of each class.
    """
    examples = dataset.split(split)
    total, squares, counts = 0.0, 0.0, np.zeros(dataset.num_classes, int)
    for start in range(0, len(examples), BLOCK):
        rows = examples[np.arange(start, min(start + BLOCK, len(examples)))]
        scaled = centres(jnp.asarray(rows["values"]), num_levels=dataset.num_levels)
        x = np.asarray(scaled, np.float64)
        total, squares = total + x.sum(), squares + (x**2).sum()
        if dataset.num_classes:
            counts += np.bincount(rows["label"], minlength=dataset.num_classes)
        progress(start + len(x))
    size = len(examples) * math.prod(dataset.shape)
    mean = total / size
    found = {
        "examples": len(examples),
        "mean": mean,
        "std": math.sqrt(max(squares / size - mean**2, 0.0)),
    }
    return found | ({"labels": counts.tolist()} if dataset.num_classes else {})
