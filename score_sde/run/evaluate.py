"""Measuring samples: their features beside those of the data, by each metric."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from score_sde.evaluation import estimates_of
from score_sde.evaluation.metrics import split_half_floor
from score_sde.run.experiment import Experiment
from score_sde.types import UserError

BATCH = 1024
"""Examples that are read at once."""


def as_features(experiment: Experiment) -> Callable[[np.ndarray], np.ndarray]:
    """Make the function from stored values, [n, *shape], to features [n, dims].

    Levels are brought to uint8 of the full range; points and latents stay floats.

    Raises:
        UserError: by the function, for data that the features are not of.
    """
    levels, extract = experiment.model.num_levels, experiment.features()

    def features(values: np.ndarray) -> np.ndarray:
        if levels is not None:
            full = np.round(np.float64(values) * (255 / (levels - 1)))
            values = np.asarray(full, np.uint8)
        try:
            return extract(values)
        except ValueError as error:
            raise UserError(f"features: {error}") from None

    return features


def features_of_split(
    experiment: Experiment, split: str, extract: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The features of the examples of a split, as many as the config wants."""
    examples = experiment.dataset.split(split)
    count = len(examples)
    wanted = experiment.evaluation.num_real
    if wanted:
        count = min(count, wanted)
    parts = [
        extract(examples[np.arange(first, min(first + BATCH, count))]["values"])
        for first in range(0, count, BATCH)
    ]
    return np.concatenate(parts)


def measure(
    experiment: Experiment, samples: np.ndarray
) -> dict[str, dict[str, dict[str, Any]]]:
    """Measure samples by every metric of the config.

    Args:
        experiment: with the data, the features and the metrics.
        samples: in the user's units. Points are measured as a model sees them, where
            no column outweighs another by its unit.

    Returns:
        Metric -> {"samples", "floor"} -> name of a number -> the fields of its
        `Estimate`. The floor is what the metric says of two halves of the data.

    Raises:
        UserError: for what a metric refuses, with its name.
    """
    extract = as_features(experiment)
    against = experiment.evaluation.against
    real = features_of_split(experiment, against, extract)
    other = {"train": "test", "test": "train"}[against]
    fake = extract(experiment.dataset.from_units(samples))
    found = {}
    for name, metric in experiment.metrics.items():
        wants = inspect.signature(metric).parameters
        more: dict[str, Any] = {}
        if "held_out" in wants:
            more["held_out"] = features_of_split(experiment, other, extract)
        try:
            rows = {
                "samples": _fields(metric(real, fake, **more)),
                "floor": _fields(split_half_floor(partial(metric, **more), real)),
            }
        except ValueError as error:
            raise UserError(f"metrics.{name}: {error}") from None
        found[name] = rows
    return found


def _fields(result: Any) -> dict[str, dict[str, Any]]:
    """The numbers of a metric's result, as JSON holds them."""
    return {
        name or "value": {
            key: dict(item) if isinstance(item, Mapping) else item
            for key, item in dataclasses.asdict(estimate).items()
        }
        for name, estimate in estimates_of(result).items()
    }


def table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """A line for each number: its value, its interval, and the floor."""
    lines = []
    for name, rows in found.items():
        for part, row in rows["samples"].items():
            floor = rows["floor"][part]["value"]
            label = name if part == "value" else f"{name}.{part}"
            between = f"[{row['low']:.4g}, {row['high']:.4g}]"
            lines.append(
                f"{label:<28} {row['value']:>10.4g}  {between:<22} floor {floor:.4g}"
            )
            lines += [f"  WARNING: {text}" for text in row["warnings"]]
    return "\n".join(lines)
