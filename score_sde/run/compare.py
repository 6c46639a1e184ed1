"""Two runs, or two results, side by side: what differs in cause, and in number."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.evaluation.report import beside_flow
from score_sde.evaluation.statistics import difference
from score_sde.run.paths import flat
from score_sde.run.provenance import digest_of
from score_sde.run.same_run import inputs_of
from score_sde.runtime.folder import read_config, read_json
from score_sde.types import UserError

Row = Mapping[str, Any]
"""The fields of an `Estimate`, as reports have them."""
RESULTS = ("likelihood", "evaluation", "samples")
CHANCE = 1.96
"""Standard errors beyond which a difference is called one."""


class Side(NamedTuple):
    """All that is known of a run."""

    folder: Path
    config: dict[str, Any]
    inputs: dict[str, Any]
    results: dict[str, dict[str, Any]]
    """Kind of result -> its report, of those that are there."""


def read_side(folder: Path) -> Side:
    """Read the files of a run.

    Raises:
        UserError: if there is no run in that folder, or a file is damaged.
    """
    found = {
        kind: read_json(folder / f"{kind}.json")
        for kind in RESULTS
        if (folder / f"{kind}.json").is_file()
    }
    return Side(folder, read_config(folder), inputs_of(folder), found)


def comparison(first: Path, second: Path) -> str:
    """The text of `score-sde compare`.

    Raises:
        UserError: if either folder has no run.
    """
    a, b = read_side(first), read_side(second)
    lines = ["causes that differ:", *_indented(_causes(a, b))]
    lines += ["numbers:", *_indented(_numbers(a, b))]
    return "\n".join(lines)


def _indented(rows: Iterator[str]) -> list[str]:
    return [f"  {row}" for row in rows] or ["  none"]


def _causes(a: Side, b: Side) -> Iterator[str]:
    """A line for each field of the configs, and each input, that is not the same."""
    sides = []
    for side in (a, b):
        causes = dict(flat(side.config)) | dict(flat({"inputs": side.inputs}))
        for kind, report in side.results.items():
            made_by = {k: v for k, v in report.get("made_by", {}).items()}
            made_by.pop("config", None)
            causes |= dict(flat({kind: made_by}))
        sides.append(json.loads(json.dumps(causes)))
    here, there = sides
    for path in sorted(here.keys() | there.keys()):
        if here.get(path) != there.get(path):
            yield f"{path}: {here.get(path)} | {there.get(path)}"


def _numbers(a: Side, b: Side) -> Iterator[str]:
    both = a.results.keys() & b.results.keys()
    if "likelihood" in both:
        yield from _likelihoods(a, b)
    if "evaluation" in both:
        yield from _metrics(a, b)
    for side in (a, b):
        missing = sorted({*RESULTS} - {"samples"} - side.results.keys())
        if missing:
            yield f"{side.folder} has no {' and no '.join(missing)}"


def _likelihoods(a: Side, b: Side) -> Iterator[str]:
    """Bits/dim of each split, and their difference, paired where it can be."""
    rows = [side.results["likelihood"]["splits"] for side in (a, b)]
    for split in rows[0].keys() & rows[1].keys():
        one, two = rows[0][split], rows[1][split]
        yield (
            f"{split}: {one['bits_per_dim']:.4f} +- {one['standard_error']:.4f} | "
            f"{two['bits_per_dim']:.4f} +- {two['standard_error']:.4f} bits/dim"
        )
        for side, row in ((a, one), (b, two)):
            if "flow" in row:  # an approximation is no model's likelihood
                yield f"  {side.folder} by jumps: {beside_flow(row['flow'])}"
        paired = _paired(a, b, split)
        if paired is not None:
            mean, error = float(paired.mean()), _standard_error(paired)
            how = f"paired over the same {len(paired)} examples"
        else:
            mean = two["bits_per_dim"] - one["bits_per_dim"]
            error = math.hypot(one["standard_error"], two["standard_error"])
            how = "of two sets of examples"
        yield f"  {_difference(mean, error, how)}"


def _difference(mean: float, error: float, how: str, *, digits: str = ".4f") -> str:
    """Text of a difference, and whether it may be chance."""
    sure = "" if abs(mean) > CHANCE * error else ": may be chance"
    return f"difference {mean:+{digits}} +- {error:{digits}}, {how}{sure}"


def _paired(a: Side, b: Side, split: str) -> np.ndarray | None:
    """Differences by example, second minus first, if both scored the same examples."""
    reports = [side.results["likelihood"] for side in (a, b)]
    if reports[0]["made_by"]["data"] != reports[1]["made_by"]["data"]:
        return None
    arrays = []
    for side, report in zip((a, b), reports, strict=True):
        file = side.folder / "likelihood.npz"
        if not file.is_file():
            return None
        with np.load(file) as found:
            if str(found["made_by"]) != digest_of(report["made_by"]):
                raise UserError(f"{file} is not that of the report beside it.")
            arrays.append((found[f"{split}_bits_per_dim"], found[f"{split}_success"]))
    (x, good_x), (y, good_y) = arrays
    if len(x) != len(y):
        return None
    good = good_x & good_y
    return y[good] - x[good]


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def same_metrics(a: Side, b: Side) -> tuple[dict[str, list[Row]], list[str]]:
    """Numbers that both evaluations have, and why others can't be compared.

    Returns:
        (name of a number -> its fields on either side; lines of what is refused).
    """
    reports = [side.results["evaluation"] for side in (a, b)]
    names = (str(a.folder), str(b.folder))
    features, references = (
        [report.get(key, {}) for report in reports] for key in ("features", "reference")
    )
    text = difference(features[0], features[1], names=names)
    if text is not None:
        return {}, [f"metrics {text}"]
    if references[0] != references[1]:
        against = [
            f"{name} was measured against {report.get('against')}"
            for name, report in zip(names, reports, strict=True)
        ]
        return {}, [f"metrics can't be compared: {'; '.join(against)}."]
    found, refused = {}, []
    one, two = (report["metrics"] for report in reports)
    for name in (n for n in one if n in two):
        settings = [_options(report, name) for report in reports]
        if settings[0] != settings[1]:
            refused.append(f"{name} can't be compared: {settings[0]} | {settings[1]}")
            continue
        rows = [metrics[name]["samples"] for metrics in (one, two)]
        for part in (p for p in rows[0] if p in rows[1]):
            label = name if part == "value" else f"{name}.{part}"
            found[label] = [row[part] for row in rows]
    return found, refused


def _metrics(a: Side, b: Side) -> Iterator[str]:
    """Each metric with its interval, if both are of the same features and reference."""
    found, refused = same_metrics(a, b)
    yield from refused
    for label, rows in found.items():
        yield f"{label}: {' | '.join(_between(row) for row in rows)}"
        yield from _difference_of_metrics(rows)


def _difference_of_metrics(rows: list[Row]) -> Iterator[str]:
    """How far a metric of two runs is apart, and what it does not say."""
    parts = [row.get("parts", {}) for row in rows]
    if all(math.isfinite(p.get("standard_error", math.nan)) for p in parts):
        mean = rows[1]["value"] - rows[0]["value"]
        error = math.hypot(*(p["standard_error"] for p in parts))
        yield "  " + _difference(mean, error, "of two sets of samples", digits=".4g")
    counts = [row.get("counts", {}).get("num_fake") for row in rows]
    if None not in counts and counts[0] != counts[1]:
        bias = ", whose bias depends on their number" if "bias" in parts[0] else ""
        yield f"  of {counts[0]:,} | {counts[1]:,} samples{bias}"


def _options(report: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """The options of a metric, as the config of a report states them."""
    config, start = report["made_by"]["config"], f"metrics.{metric}."
    return {k.removeprefix(start): v for k, v in config.items() if k.startswith(start)}


def _between(row: Mapping[str, Any]) -> str:
    return f"{row['value']:.4g} [{row['low']:.4g}, {row['high']:.4g}]"
