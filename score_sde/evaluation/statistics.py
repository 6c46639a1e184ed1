"""Statistics of reference features in files: number, mean, covariance and their origin.

    mu [dims], sigma [dims, dims]     float64; sigma with n - 1
    number, origin                    n, and a text in JSON: what they were made of

`write_statistics` writes these, as an .npz that EDM and guided-diffusion read too.
Files of those programs have no origin: they are read, and taken on trust.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.evaluation.moments import Moments, moments_problem
from score_sde.runtime.folder import save_arrays
from score_sde.types import UserError

UNKNOWN = "unknown origin, taken on trust"
"""What is said of statistics that don't say what they were made of."""
PAIRS = {"": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
"""Which of guided-diffusion's statistics -> the names of its mean and covariance."""
SHOWN = 12
"""How many letters of a checksum a message has."""


class Statistics(NamedTuple):
    """Mean and covariance of the features of a data set, in float64."""

    number: int | None
    """Of how many examples; None if the file doesn't say."""
    mean: np.ndarray
    """[dims]."""
    covariance: np.ndarray
    """[dims, dims], unbiased."""
    origin: Mapping[str, Any] | None
    """What they were made of, `features` and `data` among it; None if unknown."""
    images: np.ndarray | None = None
    """Images of the data set that guided-diffusion's files bring along, uint8."""
    where: str = ""
    """The file, and which of its statistics these are."""

    def __str__(self) -> str:
        number = "an unknown number of" if self.number is None else f"{self.number:,}"
        text = f"{self.where}: {number} examples, {len(self.mean):,} features"
        if self.origin is None:
            return f"{text}; {UNKNOWN}"
        made = f"{self.origin.get('dataset')}, {self.origin.get('split')} split"
        return f"{text} of {made}"


def write_statistics(path: Path, moments: Moments, origin: Mapping[str, Any]) -> None:
    """Write statistics and their origin, whole or not at all.

    Args:
        path: of the .npz file.
        moments: of the features of the data, of 2 examples or more.
        origin: what they were made of, as JSON holds it: `features`, `data`, ...

    Raises:
        ValueError: for fewer examples.
    """
    if moments.number < 2:
        raise ValueError(f"moments are of {moments.number} examples, not 2 or more.")
    arrays = {
        "mu": moments.mean,
        "sigma": moments.covariance,
        "number": np.asarray(moments.number),
        "origin": np.asarray(json.dumps(origin, sort_keys=True)),
    }
    save_arrays(path, arrays)


def read_statistics(path: str | Path, *, dims: int, kind: str = "") -> Statistics:
    """Read statistics of our own, or of EDM, EDM2 or guided-diffusion.

    A pickle (EDM2's) is parsed as data, and nothing of it is run.

    Args:
        path: of the file.
        dims: number of features. Of a file with several statistics those with as many
            are taken.
        kind: "spatial" for those of sFID, where a file has them beside others.

    Raises:
        UserError: if there is no such file, or it holds no statistics, or none of so
            many features.
    """
    from score_sde.weights.files import read

    path = Path(path).expanduser()
    content = read(path)
    found = dict(_entries(content)) if isinstance(content, Mapping) else {}
    if not found:
        names = sorted(map(str, content)) if isinstance(content, Mapping) else []
        raise UserError(
            f"{path} holds no statistics but {names}: it must have mu and sigma (EDM, "
            "guided-diffusion, `score-sde reference-stats`), or entries that have "
            "(EDM2)."
        )
    fitting = {name: pair for name, pair in found.items() if len(pair[0]) == dims}
    if not fitting:
        has = {name or "mu, sigma": len(pair[0]) for name, pair in found.items()}
        raise UserError(
            f"{path} has statistics of {has} features; those to compare have {dims}: "
            "choose the features that it was made of."
        )
    name = kind if kind in fitting else next(iter(fitting))
    where = f"{path} ({name})" if name else str(path)
    mean, covariance = _checked(fitting[name][0], fitting[name][1], where)
    return Statistics(
        int(content["number"]) if "number" in content else None,
        mean,
        covariance,
        _origin(path, content),
        content.get("arr_0"),
        where,
    )


def _entries(
    content: Mapping[str, Any],
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """(name, (mean, covariance)) of all statistics in the content of a file."""
    for name, (mean, covariance) in PAIRS.items():
        if mean in content and covariance in content:
            yield name, (_array(content[mean]), _array(content[covariance]))
    for name, part in content.items():
        if isinstance(part, Mapping) and "mu" in part and "sigma" in part:
            yield str(name), (_array(part["mu"]), _array(part["sigma"]))


def _array(value: Any) -> np.ndarray:
    """Make an array of what a reader of files gives; an empty one of anything else."""
    from score_sde.weights.numpy_arrays import is_array, to_array

    array = to_array(value) if is_array(value) else np.asarray(value)
    is_number = array.dtype.kind in "fiu" and array.ndim
    return np.asarray(array, np.float64) if is_number else np.empty(0)


def _checked(
    mean: np.ndarray, covariance: np.ndarray, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """The statistics, if they are some.

    Raises: UserError for shapes, numbers or a covariance that can't be.
    """
    if problem := moments_problem(mean, covariance):
        raise UserError(f"{where} {problem}")
    return mean, (covariance + covariance.T) / 2


def _origin(path: Path, content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if "origin" not in content:
        return None
    try:
        origin = json.loads(str(content["origin"]))
    except ValueError as error:
        raise UserError(f"{path} is damaged: its origin is no JSON, {error}.") from None
    if not isinstance(origin, dict) or not isinstance(origin.get("features"), dict):
        raise UserError(f"{path} is damaged: its origin names no features.")
    return origin


def difference(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    *,
    names: tuple[str, str],
) -> str | None:
    """Say why features of two sides can't be compared, in one line; None if they can.

    Args:
        first: what the features of one side depend on: name, output, weights, resize,
            dtype, ...
        second: that of the other side.
        names: of the sides.
    """
    keys = [k for k in {**first, **second} if first.get(k) != second.get(k)]
    if not keys:
        return None
    sides = [
        f"{name} has features with "
        + ", ".join(f"{k} {_shown(side.get(k))}" for k in keys)
        for name, side in zip(names, (first, second), strict=True)
    ]
    return f"can't be compared: {'; '.join(sides)}."


def _shown(value: Any) -> str:
    """A short text of one thing that features depend on."""
    text = str(value)
    if len(text) >= 64 and all(c in "0123456789abcdef," for c in text):
        return ",".join(word[:SHOWN] for word in text.split(","))
    return "none" if value is None else repr(value)


def digest_of_file(path: str | Path) -> str:
    """The SHA-256 of a file's content."""
    with Path(path).expanduser().open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
