"""The result of a metric, and the checks of what it is given.

`Estimate` is a number with its interval and with what it was made of. Every metric
checks its arrays by `feature_arrays` and its options by the rules in its signature.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from statistics import NormalDist
from typing import Any, ParamSpec, TypeVar

import numpy as np

from score_sde.fields import fields_of, value_problem
from score_sde.rules import Rule

NAN = float("nan")
BLOCK_NUMBERS = 2**23
"""How many numbers a block of rows or of distances holds: 64 MiB in float64."""

LARGEST = np.float64(1e50)
"""Features this large overflow in the sixth power, which kernel distances take."""

Level = Rule("> 0 and < 1", lambda v: 0 < v < 1)


class TooFewExamplesError(ValueError):
    """A set has fewer examples than a metric needs."""

    def __init__(self, text: str, number: int):
        super().__init__(text)
        self.number = number
        """How many it has."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number, its interval, and what both were made of.

    `low` and `high` are NaN where no interval was asked for or none can be had; then
    `method` says so.
    """

    value: float
    low: float
    high: float
    level: float | None
    """The share of repetitions whose interval holds the true value."""
    method: str
    """How the interval was made, and of what it is one."""
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Numbers of examples and of features: num_real, num_fake, dims."""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The options that the value depends on."""
    parts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Further numbers, such as the standard error and the bias of the value."""
    warnings: tuple[str, ...] = ()
    """Why the number should not be trusted, in sentences."""

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        text = f"{self.value:.6g}"
        if not math.isnan(self.low):
            text += f" [{self.low:.6g}, {self.high:.6g}]"
        return " ".join([text, *(f"WARNING: {w}" for w in self.warnings)])

    def to_dict(self) -> dict[str, Any]:
        """All fields as dicts, lists and numbers, for a report in JSON."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def estimates_of(result: Any) -> dict[str, Estimate]:
    """The estimates in a metric's result by name: one named "", or several.

    Args:
        result: an `Estimate`, or a NamedTuple that has some among its fields.
    """
    if isinstance(result, Estimate):
        return {"": result}
    named = result._asdict().items()
    return {name: item for name, item in named if isinstance(item, Estimate)}


def normal_quantile(level: float) -> float:
    """Half the width of a normal law's central interval, in standard deviations."""
    return NormalDist().inv_cdf((1 + level) / 2)


def interval(
    value: float,
    standard_error: float,
    level: float | None,
    *,
    bias: float = 0.0,
    lowest: float = -math.inf,
    highest: float = math.inf,
) -> tuple[float, float]:
    """A normal interval around value - bias, widened so that it holds the value too.

    Args:
        value: the estimate that is reported.
        standard_error: its standard deviation over repetitions.
        level: the share of repetitions whose interval holds the truth; None for none.
        bias: how much the value exceeds the truth on average.
        lowest: the least value that the truth can have.
        highest: the greatest one.
    """
    if level is None or math.isnan(standard_error):
        return NAN, NAN
    half = normal_quantile(level) * standard_error
    low = max(lowest, min(value, value - bias - half))
    high = min(highest, max(value, value - bias + half))
    return min(low, value), max(high, value)


def mean_over_images(
    values: np.ndarray,
    level: float | None,
    *,
    counts: Mapping[str, int] | None = None,
    settings: Mapping[str, Any] | None = None,
    lowest: float = -math.inf,
) -> Estimate:
    """The mean of a number of each image, [images], with its normal interval.

    One image has no interval, nor have images whose mean is not finite.

    Args:
        values: the numbers.
        level: that of the interval; None for none.
        counts: those of the estimate; None for the number of images alone.
        settings: those of the estimate.
        lowest: the least value that the truth can have.
    """
    values = np.asarray(values, np.float64)
    number, value, error = len(values), float(values.mean()), NAN
    if number > 1 and math.isfinite(value):
        error = float(values.std(ddof=1)) / math.sqrt(number)
    low, high = interval(value, error, level, lowest=lowest)
    return Estimate(
        value,
        low,
        high,
        level,
        "none" if math.isnan(error) else "normal, over images",
        counts or {"num_pairs": number},
        settings or {},
        {"standard_error": error},
    )


def share_interval(
    share: float, number: float, level: float | None
) -> tuple[float, float]:
    """Wilson's interval (1927) of a share of so many independent examples."""
    if level is None:
        return NAN, NAN
    z = normal_quantile(level)
    middle = (share + z * z / (2 * number)) / (1 + z * z / number)
    spread = share * (1 - share) / number + (z / (2 * number)) ** 2
    half = z * math.sqrt(spread) / (1 + z * z / number)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


P = ParamSpec("P")
R = TypeVar("R")


def checks_options(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function refuse options that break the rules in its signature.

    Raises: ValueError from the function, naming the option, its value and its rule.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs).arguments
        for name, field in _fields(function).items():
            value = given.get(name, field.default)
            value = value.item() if isinstance(value, np.generic) else value
            problem = name in given and value_problem(field, value)
            if problem:
                raise ValueError(f"{function.__name__}: {name} is {value!r}{problem}.")
        return function(*args, **kwargs)

    return checked


@functools.cache
def _fields(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The keyword-only fields of a function: its options."""
    parameters = inspect.signature(function).parameters.values()
    options = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    found = fields_of(function)
    return {name: field for name, field in found.items() if name in options}


def feature_array(
    name: str, features: Any, *, at_least: int = 2, why: str = ""
) -> np.ndarray:
    """Features [examples, dims] as a NumPy array of floats, checked; not copied.

    Args:
        name: what the error calls the argument.
        features: an array of NumPy or JAX, or nested lists of numbers.
        at_least: the least number of examples.
        why: what needs so many, for the error.
    Raises: ValueError naming the argument, what it is, and what it must be.
    """
    array = np.asarray(features)
    if array.dtype.kind != "f":
        raise ValueError(
            f"{name} holds {array.dtype}; it must hold real floats, the features of "
            "examples (of images, FEATURES makes them)."
        )
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(
            f"{name} has shape {array.shape}; it must be [examples, features]."
        )
    if len(array) < at_least:
        text = (
            f"{name} has {len(array)} examples; it must have {at_least} or more{why}."
        )
        raise TooFewExamplesError(text, len(array))
    for rows in blocks(*array.shape):
        good = np.abs(array[rows]) < LARGEST  # NaN is not
        if not good.all():
            wrong = np.argwhere(~good)[0]
            place = (int(wrong[0]) + rows.start, int(wrong[1]))
            raise ValueError(
                f"{name} is {array[place]} at {list(place)}; it must be finite "
                f"and below {LARGEST:g} in size."
            )
    return array


def feature_arrays(
    names: tuple[str, str],
    first: Any,
    second: Any,
    *,
    at_least: int = 2,
    why: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of features of the same kind, each checked by `feature_array`.

    Raises: ValueError naming the argument, what it is, and what it must be.
    """
    x = feature_array(names[0], first, at_least=at_least, why=why)
    y = feature_array(names[1], second, at_least=at_least, why=why)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{names[1]} has {y.shape[1]} features; it must have {x.shape[1]}, like "
            f"{names[0]}: features of two extractors are not comparable."
        )
    return x, y


def set_counts(real: np.ndarray, fake: np.ndarray) -> dict[str, int]:
    """The counts of two sets of features."""
    return {"num_real": len(real), "num_fake": len(fake), "dims": real.shape[1]}


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices that cut rows into blocks of at most BLOCK_NUMBERS numbers."""
    step = max(1, BLOCK_NUMBERS // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def square_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of rows of which any two have at most BLOCK_NUMBERS pairs, too."""
    return blocks(rows, max(columns, math.isqrt(BLOCK_NUMBERS)))
