"""Features of stored examples: on all devices and hosts, kept part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.data import Examples
from score_sde.evaluation.classifier import full_range
from score_sde.run import parts
from score_sde.run.experiment import Experiment
from score_sde.runtime.folder import Arrays
from score_sde.runtime.jobs import compute_in_parts
from score_sde.runtime.mesh import require_alike
from score_sde.runtime.progress import with_bar
from score_sde.types import UserError

BATCH = 1024
"""Examples of a part, which one host computes."""


class Extraction(NamedTuple):
    """Features in use: what makes them of stored values, and what they depend on."""

    features: Callable[[np.ndarray], np.ndarray]
    """Stored values [n, *shape] -> features [n, dims]."""
    logits: Callable[[np.ndarray], np.ndarray] | None
    """Stored values -> logits [n, classes]; None if the features are of no classifier.
    """
    identity: dict[str, Any]
    """Name, output, weights, resize, dtype: what numbers must share to be compared."""
    of_images: Callable[[Any], np.ndarray]
    """The features themselves, of images from 0 to 255 or of points as they are."""


def open_features(
    experiment: Experiment,
    config: Mapping[str, Any],
    *,
    num_levels: int | None = None,
) -> Extraction:
    """Make the features of a config, on the devices of this host.

    Args:
        experiment: of the config.
        config: the complete config itself, for features that don't say what they are.
        num_levels: grey levels of the values; None for those of the data.

    Raises:
        UserError: if they can't be made of these data, or hosts have different ones.
    """
    levels = num_levels or experiment.shown.num_levels
    try:
        extract = experiment.features()
    except ValueError as error:
        raise UserError(f"features: {str(error).removeprefix('features: ')}") from None
    options = {k: v for k, v in config["features"].items() if k != "name"}
    identity = {"name": getattr(extract, "name", config["features"]["name"])}
    known = getattr(extract, "identity", None)
    if known is None:
        own = {part: parts.digest_of(part) for part in config["parts"]}
        known = {**options, **own, "dtype": "float32"}
    identity |= known
    require_alike("features", "".join(str(v) for v in identity.values())[-64:])

    def of_values(extract: Callable[[Any], np.ndarray]) -> Callable[[Any], np.ndarray]:
        def features(values: np.ndarray) -> np.ndarray:
            try:
                return extract(full_range(values, levels))
            except ValueError as error:
                raise UserError(f"features: {error}") from None

        return features

    logits = getattr(extract, "logits", None)
    return Extraction(
        of_values(extract), logits and of_values(logits), identity, extract
    )


def in_parts(
    path: Path | None,
    count: int,
    values: Callable[[np.ndarray], np.ndarray],
    extraction: Extraction,
    *,
    logits: bool,
) -> Arrays:
    """Features of examples 0 .. count - 1, each part by one host, or read from files.

    Args:
        path: how the names of the files of parts begin; None to keep none.
        count: number of examples.
        values: numbers of examples -> their stored values.
        extraction: of the features.
        logits: whether logits are computed too.

    Returns:
        "features" [count, dims], and "logits" [count, classes].

    Raises:
        UserError: if logits are asked for, and the features have none.
    """
    if logits and extraction.logits is None:
        raise UserError(
            f"features {extraction.identity['name']!r} have no logits, which a metric "
            "reads: choose features.name 'classifier', 'efficientnet_lite0' or "
            "'inception', or leave the metric out."
        )

    def compute(first: int) -> Arrays:
        rows = values(np.arange(first, min(first + BATCH, count)))
        found = {"features": extraction.features(rows)}
        if logits and extraction.logits is not None:
            found["logits"] = extraction.logits(rows)
        return found

    if path is None:
        found = [compute(i) for i in with_bar("features", range(0, count, BATCH))]
        return {name: np.concatenate([f[name] for f in found]) for name in found[0]}
    return compute_in_parts(path, count=count, size=BATCH, compute=compute)


def values_of(examples: Examples) -> Callable[[np.ndarray], np.ndarray]:
    """The function from numbers of examples of a split to their stored values."""
    return lambda index: examples[index]["values"]


def count_of(experiment: Experiment, split: str) -> int:
    """Count the examples of a split that the config measures by."""
    count = len(experiment.shown.split(split))
    wanted = experiment.evaluation.num_real
    return min(count, wanted) if wanted else count
