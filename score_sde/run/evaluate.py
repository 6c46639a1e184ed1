"""Measuring samples: their features beside those of the data, by each metric."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.evaluation import estimates_of, nearest_neighbours
from score_sde.evaluation.fd_infinity import frechet_by_number
from score_sde.evaluation.metrics import split_half_floor
from score_sde.evaluation.reading import reads_of
from score_sde.run.experiment import Experiment
from score_sde.run.extraction import (
    Extraction,
    count_of,
    in_parts,
    open_features,
    values_of,
)
from score_sde.run.reference import Reference, open_reference
from score_sde.runtime.folder import Arrays
from score_sde.types import UserError

NUM_NEIGHBOURS = 3
"""How many training examples the picture shows beside each sample."""
SMALLEST_CURVE = 50
"""Fewest samples of which the distance is drawn against their number."""


class Measured(NamedTuple):
    """The measurements of samples, and what they were measured of."""

    metrics: dict[str, dict[str, Any]]
    """Metric -> {"samples", "floor"} -> name of a number -> fields of its `Estimate`;
    and "arrays" -> {"samples", "floor"} -> name -> list, where a metric returns some.
    The floor is what it says of two halves of the data."""
    skipped: dict[str, str]
    """Metric -> why it could not be measured."""
    features: dict[str, Any]
    """What the features depend on."""
    reference: dict[str, Any]
    """What the samples were held against."""
    text: str
    """That in a few words."""
    neighbours: np.ndarray | None
    """Numbers of the training examples that are nearest to the first samples."""
    curve: dict[str, np.ndarray] | None
    """The Frechet distance by the number of samples; see `frechet_by_number`."""

    def report(self) -> dict[str, Any]:
        """Make the content of evaluation.json."""
        report = {
            "features": self.features,
            "reference": self.reference,
            "against": self.text,
            "metrics": self.metrics,
        }
        if self.skipped:
            report["skipped"] = self.skipped
        if self.curve is not None:
            report["curve"] = {k: v.tolist() for k, v in self.curve.items()}
        return report


def measure(
    experiment: Experiment,
    config: Mapping[str, Any],
    samples: np.ndarray,
    folder: Path | None = None,
) -> Measured:
    """Measure samples by every metric of the config.

    Args:
        experiment: with the data, the features and the metrics.
        config: the complete config.
        samples: in the user's units. Points are measured as a model sees them, where
            no column outweighs another by its unit.
        folder: for the features of parts, so that a job that was interrupted goes on;
            None to keep none.

    Raises:
        UserError: for what a metric refuses, with its name; for a reference of other
            features.
    """
    extraction = open_features(experiment, config)
    logits = _reads_logits(experiment)
    stored = experiment.shown.from_units(samples)
    fake = in_parts(
        folder and folder / "samples",
        len(stored),
        lambda index: stored[index],
        extraction,
        logits=logits,
    )
    reference = open_reference(
        experiment,
        config,
        extraction,
        dims=fake["features"].shape[1],
        logits=logits,
        folder=folder,
    )
    other = partial(_split_features, experiment, extraction, reference, folder)
    found, skipped = {}, {}
    for name, metric in experiment.metrics.items():
        try:
            rows = _rows(metric, reference, fake, other)
        except ValueError as error:
            raise UserError(f"metrics.{name}: {error}") from None
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
    experiment: Experiment, config: Mapping[str, Any], folder: Path | None = None
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

    Raises:
        UserError: for features and references that can't be had.
    """
    extraction = open_features(experiment, config)
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
                raise UserError(f"metrics.{name}: {error}") from None
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
    if not reference.arrays and "moments" not in reads_of(metric):
        return f"it needs the examples; {reference.record['file']} has moments alone"
    return ""


def _kind(metric: Callable[..., Any]) -> str:
    """Name of the arrays that a metric reads: 'features' or 'logits'."""
    return "logits" if "logits" in reads_of(metric) else "features"


def _with_held_out(
    metric: Callable[..., Any],
    reference: Reference,
    other: Callable[[str], np.ndarray],
) -> Callable[..., Any]:
    """The metric with the other split of the data, if it takes that."""
    if "held_out" not in inspect.signature(metric).parameters:
        return metric
    against = reference.record.get("split", "train")
    return partial(metric, held_out=other({"train": "test", "test": "train"}[against]))


def _bound(
    metric: Callable[..., Any],
    reference: Reference,
    other: Callable[[str], np.ndarray],
) -> Callable[[np.ndarray], Any]:
    """The metric as a function of what samples have, held against the reference."""
    use_moments = reference.statistics is not None and "moments" in reads_of(metric)
    real = reference.statistics if use_moments else reference.arrays[_kind(metric)]
    return partial(_with_held_out(metric, reference, other), real)


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
    rows: dict[str, Any] = {"samples": _fields(result)}
    arrays = {"samples": _lists(result)}
    if reference.arrays:
        whole = _with_held_out(metric, reference, other)
        halves = split_half_floor(whole, reference.arrays[_kind(metric)])
        rows["floor"], arrays["floor"] = _fields(halves), _lists(halves)
    if arrays["samples"]:
        rows["arrays"] = arrays
    return rows


def _fields(result: Any) -> dict[str, dict[str, Any]]:
    """The numbers of a metric's result, as JSON holds them."""
    return {
        name or "value": {
            key: dict(item) if isinstance(item, Mapping) else item
            for key, item in dataclasses.asdict(estimate).items()
        }
        for name, estimate in estimates_of(result).items()
    }


def _lists(result: Any) -> dict[str, list[Any]]:
    """The arrays in a metric's result, such as counts by class, as lists."""
    named = result._asdict() if hasattr(result, "_asdict") else {}
    return {k: v.tolist() for k, v in named.items() if isinstance(v, np.ndarray)}


def _curve(reference: Reference, fake: np.ndarray) -> dict[str, np.ndarray] | None:
    """The Frechet distance by the number of samples, if there are enough of them."""
    if len(fake) < SMALLEST_CURVE:
        return None
    statistics = reference.statistics
    real = reference.arrays["features"] if statistics is None else statistics
    return frechet_by_number(real, fake)


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each number: its value, its interval, and the floor.

    Args:
        found: the `metrics` of a report.
    """
    lines = []
    for name, rows in found.items():
        for part, row in rows["samples"].items():
            label = name if part == "value" else f"{name}.{part}"
            between = f"[{row['low']:.4g}, {row['high']:.4g}]"
            line = f"{label:<28} {row['value']:>10.4g}  {between:<22}"
            if "floor" in rows:
                line += f" floor {rows['floor'][part]['value']:.4g}"
            lines += [line.rstrip(), *(f"  WARNING: {w}" for w in row["warnings"])]
        for part, values in rows.get("arrays", {}).get("samples", {}).items():
            lines.append(f"{f'{name}.{part}':<28} {_counts(values)}")
    return "\n".join(lines)


def _counts(values: list[Any]) -> str:
    """The numbers of a list, or, of a long one, the range of them."""
    if len(values) <= 20:
        return " ".join(map(str, values))
    return f"{len(values)} numbers from {min(values)} to {max(values)}"
