"""Measuring samples: their features beside those of the data, by each metric."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.evaluation import estimates_of, nearest_neighbours
from score_sde.evaluation.estimate import TooFewExamplesError
from score_sde.evaluation.fd_infinity import frechet_by_number
from score_sde.evaluation.metrics import split_half_floor
from score_sde.evaluation.reading import reads_of
from score_sde.evaluation.statistics import Statistics
from score_sde.run.experiment import Experiment
from score_sde.run.extraction import (
    Extraction,
    count_of,
    in_parts,
    open_features,
    values_of,
)
from score_sde.run.measured import Measured, fields, lists
from score_sde.run.reference import Reference, open_reference
from score_sde.runtime.folder import Arrays
from score_sde.types import UserError

NUM_NEIGHBOURS = 3
"""How many training examples the picture shows beside each sample."""
SMALLEST_CURVE = 50
"""Fewest samples of which the distance is drawn against their number."""


def measure(
    experiment: Experiment,
    config: Mapping[str, Any],
    samples: np.ndarray,
    folder: Path | None = None,
    extraction: Extraction | None = None,
) -> Measured:
    """Measure samples by every metric of the config.

    Args:
        experiment: with the data, the features and the metrics.
        config: the complete config.
        samples: in the user's units. Points are measured as a model sees them, where
            no column outweighs another by its unit.
        folder: for the features of parts, so that a job that was interrupted goes on;
            None to keep none.
        extraction: the features of the config, where they are open; None to open them.

    Raises:
        UserError: for what a metric refuses, with its name; for a reference of other
            features; for no samples.
    """
    extraction = extraction or open_features(experiment, config)
    logits = _reads_logits(experiment)
    stored = experiment.shown.from_units(samples)
    if not len(stored):
        raise UserError("there is no sample to measure: all of them failed.")
    parts = folder and folder / "samples"
    fake = in_parts(
        parts, len(stored), lambda index: stored[index], extraction, logits=logits
    )
    dims = fake["features"].shape[1]
    reference = open_reference(
        experiment, config, extraction, dims=dims, logits=logits, folder=folder
    )
    other = partial(_split_features, experiment, extraction, reference, folder)
    found, skipped = {}, {}
    for name, metric in experiment.metrics.items():
        try:
            rows = _rows(metric, reference, fake, other)
        except ValueError as error:
            raise _refusal(name, error, len(stored)) from None
        if isinstance(rows, str):
            skipped[name] = rows
        else:
            found[name] = rows
    shown = fake["features"][: experiment.evaluation.num_shown]
    return Measured(
        found,
        skipped,
        extraction.identity,
        reference.record,
        str(reference),
        _neighbours(shown, other("train")) if len(shown) else None,
        _curve(reference, fake["features"]),
    )


def _refusal(name: str, error: ValueError, number: int) -> UserError:
    """The error of a metric, which says what to change if samples are too few."""
    text = f"metrics.{name}: {error}"
    if isinstance(error, TooFewExamplesError) and error.number == number:
        text += (
            f" There are {number} samples to measure: sampling.num_samples, and in "
            "training evaluation.in_training, says how many are drawn."
        )
    return UserError(text)


def _neighbours(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Numbers of the training examples that are nearest to each of some samples."""
    count = min(NUM_NEIGHBOURS, len(train))
    return nearest_neighbours(features, train, k=count)[1]


def _split_features(
    experiment: Experiment,
    extraction: Extraction,
    reference: Reference,
    folder: Path | None,
    split: str,
) -> np.ndarray:
    """Features of a split of the data, those of the reference if it is that one."""
    if reference.arrays and reference.record.get("split") == split:
        return reference.arrays["features"]
    count = count_of(experiment, split)
    values = values_of(experiment.shown.split(split))
    path = folder and folder / split
    return in_parts(path, count, values, extraction, logits=False)["features"]


def make_measure(
    experiment: Experiment,
    config: Mapping[str, Any],
    folder: Path | None = None,
    extraction: Extraction | None = None,
) -> Callable[[np.ndarray], dict[str, float]]:
    """Make the function that measures samples again and again, as training does.

    It takes stored values, and gives each number by its name, with the ends of its
    interval beside it where it has one. The features of the data are computed once, and
    there are no floors. It raises UserError for what a metric refuses, with its name.

    Args:
        experiment: with the data, the features and the metrics.
        config: the complete config.
        folder: where `measure` keeps features of the data, which are read there; None
            to compute them.
        extraction: the features of the config, where they are open; None to open them.

    Raises:
        UserError: for features and references that can't be had.
    """
    extraction = extraction or open_features(experiment, config)
    logits = _reads_logits(experiment)
    one = experiment.shown.test[np.arange(1)]["values"]
    reference = open_reference(
        experiment,
        config,
        extraction,
        dims=extraction.features(one).shape[1],
        logits=logits,
        folder=folder,
    )
    other = functools.cache(
        partial(_split_features, experiment, extraction, reference, folder)
    )

    def measure(stored: np.ndarray) -> dict[str, float]:
        fake = in_parts(
            None, len(stored), lambda index: stored[index], extraction, logits=logits
        )
        found: dict[str, float] = {}
        for name, metric in experiment.metrics.items():
            if _cannot(metric, reference):
                continue
            try:
                result = _bound(metric, reference, other)(fake[_kind(metric)])
            except ValueError as error:
                raise _refusal(name, error, len(stored)) from None
            for part, estimate in estimates_of(result).items():
                label = f"{name}.{part}" if part else name
                found[label] = estimate.value
                if not math.isnan(estimate.low):
                    found[f"{label}.low"] = estimate.low
                    found[f"{label}.high"] = estimate.high
        return found

    return measure


def _reads_logits(experiment: Experiment) -> bool:
    """Whether any metric of the config reads logits."""
    return any("logits" in reads_of(m) for m in experiment.metrics.values())


def _cannot(metric: Callable[..., Any], reference: Reference) -> str:
    """Why a metric can't be had against the reference; "" if it can."""
    if not reference.arrays and {"moments", "training"}.isdisjoint(reads_of(metric)):
        return f"it needs the examples; {reference.record['file']} has moments alone"
    return ""


def _kind(metric: Callable[..., Any]) -> str:
    """Name of the arrays that a metric reads: 'features' or 'logits'."""
    return "logits" if "logits" in reads_of(metric) else "features"


def _takes_held_out(metric: Callable[..., Any]) -> bool:
    return "held_out" in inspect.signature(metric).parameters


def _real(
    metric: Callable[..., Any],
    reference: Reference,
    other: Callable[[str], np.ndarray],
) -> Any:
    """Choose what samples are held against: about copies, the training split."""
    kinds = reads_of(metric)
    if "training" in kinds:
        return other("train")
    if reference.statistics is not None and "moments" in kinds:
        return reference.statistics
    return reference.arrays[_kind(metric)]


def _bound(
    metric: Callable[..., Any],
    reference: Reference,
    other: Callable[[str], np.ndarray],
) -> Callable[[np.ndarray], Any]:
    """The metric as a function of what samples have, held against the data."""
    real = _real(metric, reference, other)
    if not _takes_held_out(metric):
        return partial(metric, real)
    against = reference.record.get("split", "train")
    if "training" in reads_of(metric):
        against = "train"
    split = {"train": "test", "test": "train"}[against]
    return partial(metric, real, held_out=other(split))


def _rows(
    metric: Callable[..., Any],
    reference: Reference,
    fake: Arrays,
    other: Callable[[str], np.ndarray],
) -> dict[str, Any] | str:
    """The numbers of a metric, of samples and of two halves of the data.

    Args:
        metric: with its options bound.
        reference: what samples are held against.
        fake: features of samples, and their logits if a metric reads them.
        other: split -> features of the data of that split.

    Returns:
        The rows of a report, or why there are none.
    """
    if why := _cannot(metric, reference):
        return why
    result = _bound(metric, reference, other)(fake[_kind(metric)])
    rows: dict[str, Any] = {"samples": fields(result)}
    arrays = {"samples": lists(result)}
    # Halves beside all that is held out say nothing of the whole beside it.
    real = None if _takes_held_out(metric) else _real(metric, reference, other)
    if isinstance(real, Statistics):
        real = reference.arrays.get("features")
    if real is not None:
        halves = split_half_floor(metric, real)
        rows["floor"], arrays["floor"] = fields(halves), lists(halves)
    if "training" in reads_of(metric):
        rows["split"] = "train"
    if arrays["samples"]:
        rows["arrays"] = arrays
    return rows


def _curve(reference: Reference, fake: np.ndarray) -> dict[str, np.ndarray] | None:
    """The Frechet distance by the number of samples, if there are enough of them."""
    if len(fake) < SMALLEST_CURVE:
        return None
    statistics = reference.statistics
    real = reference.arrays["features"] if statistics is None else statistics
    return frechet_by_number(real, fake)
