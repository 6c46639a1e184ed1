"""Latents of an autoencoder as data: posterior means and deviations, standardised.

`score-sde encode` writes a folder: latents.json says whose they are, and train.npz and
test.npz hold `means` and, of an encoder with noise, `stds`, float32 [examples, *shape],
and `labels`. A model sees (z - shift) / scale of each channel. Training draws from the
posteriors anew in every step, so that rows have the deviations under "std".
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.data import npz
from score_sde.data.dataset import Dataset, Examples, Rows
from score_sde.data.identity import (
    described,
    digest_of_json,
    identity,
    identity_of_files,
)
from score_sde.data.local import local_path
from score_sde.data.units import Units
from score_sde.types import UserError

LATENTS = "latents"
FILE = "latents.json"
ROLE = "autoencoder"
"""The companion that decodes the latents."""
STANDARD = (0.8, 1.25)
"""Where the standard deviation of every scaled channel must lie: noise levels of
training and sampling are meant for data of deviation 1."""
SMALLEST_STD = 1e-6

Encode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
"""Stored images -> means and deviations of their posteriors, None without noise."""
OPENERS: dict[str, Callable[[Mapping[str, Any]], Encode]] = {}
"""Kind of encoder -> (what latents.json says of it -> the encoder), for latents that
are encoded as they are read. `run` adds the autoencoders."""


class Facts(NamedTuple):
    """The content of latents.json."""

    shape: tuple[int, ...]
    num_classes: int
    counts: Mapping[str, int]
    """Split -> number of examples."""
    mean: tuple[float, ...]
    """Of each channel of latents drawn from the posteriors of the training images."""
    std: tuple[float, ...]
    """Alike, the standard deviation."""
    decoder_std: float
    """Root mean squared error of training images decoded from such latents."""
    source: Mapping[str, Any]
    """Name and options of the source of the images."""
    autoencoder: Mapping[str, Any]
    """run, step and checksum of what encoded them."""


def read_facts(folder: Path) -> Facts:
    """Read latents.json.

    Raises:
        UserError: if it is not there, or is something else.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(
            f"there is no {path}; score-sde encode --workdir=RUN writes RUN/latents."
        )
    try:
        found = json.loads(path.read_text())
        facts = Facts(**{name: found[name] for name in Facts._fields})
        channels = len(facts.mean), len(facts.std), facts.shape[-1]
        if len(set(channels)) != 1 or not str(facts.autoencoder["checksum"]):
            raise ValueError(f"{channels} channels")
        if not 0 < facts.decoder_std < math.inf:
            raise ValueError(f"decoder_std is {facts.decoder_std}")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} is no description of latents ({error}).") from None
    return facts._replace(
        shape=tuple(facts.shape), mean=tuple(facts.mean), std=tuple(facts.std)
    )


def latents(
    path: str,
    shift: tuple[float, ...],
    scale: tuple[float, ...],
    on_the_fly: bool,
    decoder_std: float,
    *,
    source: Callable[[str, Mapping[str, Any]], Dataset],
) -> Dataset:
    """Make the data set of the latents in a folder.

    Args:
        path: the folder.
        shift: of each channel, what a model sees as 0; empty for the mean, or for 0 if
            the scale is stated.
        scale: of each channel, or one for all: what it sees as 1; empty for the
            standard deviation.
        on_the_fly: whether images are encoded as they are read instead.
        decoder_std: of the decoder in likelihoods; 0 for that which was measured.
        source: (name, options) -> the data set of the images.

    Raises:
        UserError: for a folder without latents, or a scale that leaves a channel
            outside of `STANDARD`.
    """
    folder = local_path(path, "data.path")
    facts = read_facts(folder)
    units = scaled_units(facts, shift, scale)
    options = {k: _tuples(v) for k, v in facts.source.items() if k != "name"}
    origin = source(facts.source["name"], options)
    return Dataset(
        LATENTS,
        facts.shape,
        None,
        facts.num_classes,
        partial(_open, folder, facts, units, origin, on_the_fly),
        units,
        _overall(facts, units),
        partial(_identify, folder, facts, units, origin, on_the_fly),
        origin=origin,
        made_by={ROLE: str(facts.autoencoder["checksum"])},
        decoder_std=decoder_std or facts.decoder_std,
    )


def scaled_units(
    facts: Facts, shift: tuple[float, ...], scale: tuple[float, ...]
) -> Units:
    """The map between latents and what a model sees.

    Raises:
        UserError: if a channel's standard deviation would lie outside of `STANDARD`.
    """
    channels = facts.shape[-1]
    if scale:
        scale = scale * channels if len(scale) == 1 else scale
        shift = shift or (0.0,)
        shift = shift * channels if len(shift) == 1 else shift
        units = Units(tuple(shift), tuple(scale))
    else:
        found = tuple(max(s, SMALLEST_STD) for s in facts.std)
        units = Units(shift or facts.mean, found)
    if problem := units.problem(facts.shape):
        raise UserError(f"{problem}.")
    low, high = STANDARD
    for channel, (std, one) in enumerate(zip(facts.std, units.scale, strict=True)):
        if not low <= std / one <= high:
            raise UserError(
                f"scale is {one:.4g} for channel {channel} of the latents, whose "
                f"standard deviation is {std:.4g}: scaled it would be {std / one:.3g}, "
                f"and it must be from {low} to {high}. Leave data.scale out."
            )
    return units


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Latents in memory, or in a file that is mapped, as a model sees them."""

    means: np.ndarray
    stds: np.ndarray | None
    labels: np.ndarray | None
    units: Units

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, index: np.ndarray, /) -> Rows:
        stds = None if self.stds is None else self.stds[index]
        rows = as_seen(self.means[index], stds, self.units)
        if self.labels is not None:
            rows["label"] = self.labels[index].astype(np.int32)
        return rows


@dataclasses.dataclass(frozen=True)
class EncodedWhenRead:
    """Images that are encoded whenever they are read."""

    images: Examples
    encode: Encode
    units: Units

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: np.ndarray, /) -> Rows:
        rows = dict(self.images[index])
        means, stds = self.encode(rows.pop("values"))
        return {**rows, **as_seen(means, stds, self.units)}


def as_seen(means: np.ndarray, stds: np.ndarray | None, units: Units) -> Rows:
    """Rows of posteriors as a model sees them."""
    rows = {"values": np.asarray(units.from_units(means), np.float32)}
    if stds is not None:
        rows["std"] = np.asarray(stds / np.asarray(units.scale), np.float32)
    return rows


def _open(
    folder: Path,
    facts: Facts,
    units: Units,
    origin: Dataset,
    on_the_fly: bool,
    split: str,
) -> Examples:
    if on_the_fly:
        encode = OPENERS[ROLE](facts.autoencoder)
        return EncodedWhenRead(origin.split(split), encode, units)
    place = folder / f"{split}.npz"
    if not place.is_file():
        raise UserError(
            f"there is no {place}: encode the data anew, or set data.on_the_fly."
        )
    found, _ = npz.read_arrays(place)
    shape = found["means"].shape if "means" in found else ()
    if shape != (facts.counts[split], *facts.shape):
        raise UserError(
            f"{place}: means are of shape {shape}; {FILE} says "
            f"{(facts.counts[split], *facts.shape)}."
        )
    labels = found.get("labels") if facts.num_classes else None
    return Encoded(found["means"], found.get("stds"), labels, units)


def _identify(
    folder: Path,
    facts: Facts,
    units: Units,
    origin: Dataset,
    on_the_fly: bool,
    dataset: Dataset,
) -> dict[str, Any]:
    """The identity of the images, of their encoder, and of the latents in files."""
    images = identity(origin)
    parts = [images["digest"], facts.autoencoder["checksum"], *units]
    if not on_the_fly:
        # Opened anew, so that it is read as its files are now.
        fresh = dataclasses.replace(dataset, identify=None)
        files = [(folder / f"{s}.npz").resolve() for s in ("train", "test")]
        parts.append(identity_of_files(fresh, files)["digest"])
    return described(dataset, dict(facts.counts), digest_of_json(parts))


def _overall(facts: Facts, units: Units) -> float:
    """The standard deviation of all scaled latents, drawn from their posteriors."""
    rows = zip(facts.mean, facts.std, units.shift, units.scale, strict=True)
    moments = [((m - b) / s, (d / s) ** 2) for m, d, b, s in rows]
    mean = math.fsum(m for m, _ in moments) / len(moments)
    second = math.fsum(v + m * m for m, v in moments) / len(moments)
    return math.sqrt(second - mean * mean)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
