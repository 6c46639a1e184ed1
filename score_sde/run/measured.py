"""The report of what samples were measured to be, and its table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from score_sde.evaluation import estimates_of
from score_sde.evaluation.statistics import UNKNOWN


class Measured(NamedTuple):
    """The measurements of samples, and what they were measured of."""

    metrics: dict[str, dict[str, Any]]
    """Metric -> {"samples", "floor"} -> name of a number -> fields of its `Estimate`;
    "arrays" -> {"samples", "floor"} -> name -> list, where a metric returns some; and
    "split", that of the data, where the metric chooses it. The floor is what it says of
    two halves of the data."""
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


def of_samples(
    config: Mapping[str, Any],
    inputs: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Describe samples for a report: how many, of which classes and which average.

    Args:
        config: the complete config of their run.
        inputs: those of `same_run.inputs_of`.
        arrays: those of samples.npz.
    """
    good = arrays["success"]
    found: dict[str, Any] = {"number": int(good.sum()), "failed": int((~good).sum())}
    names = ("ema_halflife_steps", "ema_rampup_ratio")
    average = {name: config["train"][name] for name in names} if inputs else UNKNOWN
    found["average"] = inputs.get("average", average)
    labels = arrays.get("labels")
    if labels is not None and labels.ndim == 1 and labels.dtype.kind in "iu":
        classes, counts = np.unique(labels[good], return_counts=True)
        found["labels"] = dict(zip(map(str, classes), counts.tolist(), strict=True))
    return found


def fields(result: Any) -> dict[str, dict[str, Any]]:
    """The numbers of a metric's result, as JSON holds them."""
    return {
        name or "value": {
            key: dict(item) if isinstance(item, Mapping) else item
            for key, item in dataclasses.asdict(estimate).items()
        }
        for name, estimate in estimates_of(result).items()
    }


def lists(result: Any) -> dict[str, list[Any]]:
    """The arrays in a metric's result, such as counts by class, as lists."""
    named = result._asdict() if hasattr(result, "_asdict") else {}
    return {k: v.tolist() for k, v in named.items() if isinstance(v, np.ndarray)}


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each number: its value, its interval, its floor or what is expected.

    Args:
        found: the `metrics` of a report.
    """
    lines = []
    for name, rows in found.items():
        for part, row in rows["samples"].items():
            label = name if part == "value" else f"{name}.{part}"
            between = f"[{row['low']:.4g}, {row['high']:.4g}]"
            line = (
                f"{label:<28} {row['value']:>10.4g}  {between:<22}{_beside(rows, part)}"
            )
            lines += [line.rstrip(), *_warnings(rows, part)]
        for part, values in rows.get("arrays", {}).get("samples", {}).items():
            lines.append(f"{f'{name}.{part}':<28} {_counts(values)}")
    return "\n".join(lines)


def _beside(rows: Mapping[str, Any], part: str) -> str:
    """The end of a number's line: its floor or expectation, and the split it is of."""
    text, parts = "", rows["samples"][part].get("parts", {})
    if "floor" in rows:
        text += f" floor {rows['floor'][part]['value']:.4g}"
    if "expected" in parts:
        text += f" expected {parts['expected']:.4g}"
    return text + (f" ({rows['split']} split)" if "split" in rows else "")


def _warnings(rows: Mapping[str, Any], part: str) -> list[str]:
    """Lines of the warnings of a number and of its floor."""
    floor = rows.get("floor", {}).get(part, {}).get("warnings", ())
    return [
        *(f"  WARNING: {text}" for text in rows["samples"][part]["warnings"]),
        *(f"  WARNING of the floor: {text}" for text in floor),
    ]


def _counts(values: list[Any]) -> str:
    """The numbers of a list, or, of a long one, the range of them."""
    if len(values) <= 20:
        return " ".join(map(str, values))
    return f"{len(values)} numbers from {min(values)} to {max(values)}"
