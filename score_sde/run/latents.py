"""Latents of a run: encoding of data, and decoding of samples."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import data
from score_sde.arrays import example_keys, mean_over_data, sum_over_data
from score_sde.data import Dataset, encoded
from score_sde.dequantisation import Dequantised
from score_sde.elbo.terms import bin_log_prob
from score_sde.fields import fields_of
from score_sde.latents import Coder
from score_sde.latents.tiles import decode_in_tiles
from score_sde.run.model import COMPANIONS, Model
from score_sde.run.settings import Companion, Data
from score_sde.runtime.folder import read_config, save_arrays, write_json
from score_sde.runtime.jobs import BY_EXAMPLE, EVERYWHERE, map_examples
from score_sde.runtime.mesh import divisible, local_mesh
from score_sde.runtime.progress import with_bar
from score_sde.types import Array, Key, Params, UserError

if TYPE_CHECKING:
    from score_sde.run.open import Run

BATCH = 256
"""Images that are encoded at once."""


def decoded_by_companion(
    model: Model, dataset: Dataset, companions: Mapping[str, Companion], tile: int
) -> tuple[Model, list[str]]:
    """The model of latents, whose samples an autoencoder decodes, and problems.

    Args:
        model: of the latents.
        dataset: the latents.
        companions: role -> where that run is; one that is missing is reported
            elsewhere.
        tile: side of the tiles that are decoded at once; 0 for all of it.
    """
    from score_sde.run.companions import experiment_of

    (role,) = dataset.made_by
    if role not in companions:
        return model, []
    try:
        other = experiment_of(companions[role], role)
    except UserError as error:
        return model, [str(error).rstrip(".")]
    coder = other.model.network.parts
    if coder is None:
        return model, [f"companions.{role}: {companions[role].run} is no autoencoder"]
    model = model._replace(
        render=partial(decoded, coder, dataset, role, tile),
        embed=partial(embedded, coder, dataset, role),
    )
    if has_noise(other.model):
        scored = partial(points_of_images, coder, dataset, role)
        model = model._replace(points_of_images=scored)
    return model, []


def has_noise(model: Model) -> bool:
    """Whether the encoder of an autoencoder draws its latents, so that they have a
    density.
    """
    network = model.network
    params = jax.eval_shape(lambda: network.init(jax.random.key(0)))
    image = jax.ShapeDtypeStruct((1, *model.shape), jnp.float32)
    found = jax.eval_shape(network.parts.encode, params, image)
    return found.log_variance is not None


def points_of_images(
    coder: Coder,
    dataset: Dataset,
    role: str,
    params: Params,
    keys: Key,
    values: Array,
) -> Dequantised:
    """Latents of images, and what is taken off their log-density for the images'.

        log p(x) >= E[log p(z) - (log q(z given x) - log p(x given z))]

    with a decoder that gives each level the mass of a Gaussian in its bin, of one
    standard deviation for all pixels.

    Args:
        coder: the autoencoder.
        dataset: the latents, with their units.
        role: of the autoencoder among the companions.
        params: of the run, with its companions.
        keys: one per example.
        values: images as they are stored, [batch, *shape].
    """
    own, levels = params[COMPANIONS][role]["network"], dataset.shown.num_levels
    assert levels is not None  # autoencoders are of images in levels
    x = data.centres(values, num_levels=levels)
    posterior = coder.encode(own, x)
    z = posterior.sample(keys)
    # Of scaled latents, as the flow's density is.
    nats = posterior.log_prob(z) + dataset.log_scale
    std = jnp.asarray(dataset.decoder_std, x.dtype)
    inside = bin_log_prob(x, coder.decode(own, z), std, width=2 / levels)
    return Dequantised(scaled_latents(dataset, z), nats - sum_over_data(inside))


def decoded(
    coder: Coder,
    dataset: Dataset,
    role: str,
    tile: int,
    params: Params,
    x: Array,
    cond: Any = None,
) -> Array:
    """The images of latents as a model sees them, from about -1 to 1.

    Args:
        coder: the autoencoder.
        dataset: the latents, with their units.
        role: of the autoencoder among the companions.
        tile: side of the tiles that are decoded at once; 0 for all of it.
        params: of the run, with its companions.
        x: scaled latents, [batch, *shape].
        cond: what they were told, which decoding does not depend on.
    """
    del cond
    own = params[COMPANIONS][role]["network"]
    decode, z = partial(coder.decode, own), raw_latents(dataset, x)
    if not tile:
        return decode(z)
    return decode_in_tiles(decode, z, tile=tile, overlap=tile // 4)


def embedded(
    coder: Coder, dataset: Dataset, role: str, params: Params, x: Array
) -> Array:
    """The latents of images as a model sees them; see `decoded`."""
    own = params[COMPANIONS][role]["network"]
    return scaled_latents(dataset, coder.encode(own, x).mean)


def raw_latents(dataset: Dataset, x: Array) -> Array:
    """Latents as the autoencoder knows them: shift + scale x of each channel."""
    row = (1,) * (x.ndim - 1) + (-1,)
    shift, scale = (jnp.asarray(a, x.dtype).reshape(row) for a in dataset.units)
    return shift + scale * x


def scaled_latents(dataset: Dataset, z: Array) -> Array:
    """Latents as a model sees them: undo `raw_latents`."""
    row = (1,) * (z.ndim - 1) + (-1,)
    shift, scale = (jnp.asarray(a, z.dtype).reshape(row) for a in dataset.units)
    return (z - shift) / scale


def make_encode(run: Run) -> encoded.Encode:
    """The function from stored images to means and deviations of their latents.

    Args:
        run: of an autoencoder.
    """
    experiment, mesh = run.experiment, local_mesh()
    coder: Coder = experiment.model.network.parts
    levels, size = experiment.dataset.num_levels, divisible(BATCH, mesh)

    def posterior(params: Params, values: Array) -> tuple[Array, ...]:
        found = coder.encode(params, data.centres(values, num_levels=levels))
        return (found.mean,) if found.log_variance is None else (found.mean, found.std)

    compiled = map_examples(posterior, mesh, EVERYWHERE, BY_EXAMPLE)

    def encode(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        parts = []
        for first in range(0, len(values), size):
            part = values[first : first + size]
            padded = np.resize(part, (size, *part.shape[1:]))
            made = jax.device_get(compiled(run.params["network"], padded))
            parts.append([a[: len(part)] for a in made])
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return columns[0], columns[1] if len(columns) > 1 else None

    return encode


@functools.cache
def _encoder_of(folder: str, step: int, checksum: str) -> encoded.Encode:
    from score_sde.run.open import AUTOENCODER, open_run

    run = open_run(folder, step=step, needs=AUTOENCODER)
    if run.digest != checksum:
        raise UserError(
            f"the autoencoder in {folder} has the checksum {run.digest}; the latents "
            f"were described for {checksum}: run score-sde encode again."
        )
    return make_encode(run)


def open_encoder(facts: Mapping[str, Any]) -> encoded.Encode:
    """The encoder that latents.json names.

    Raises:
        UserError: if it is not there, or another one by now.
    """
    return _encoder_of(facts["run"], facts["step"], facts["checksum"])


encoded.OPENERS[encoded.ROLE] = open_encoder


def source_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Name and options of the source of a config's data."""
    return {k: v for k, v in config["data"].items() if k not in fields_of(Data)}


def encode_data(
    run: Run, workdir: Path, folder: Path, *, with_files: bool = True
) -> dict[str, Any]:
    """Encode the data of an autoencoder's run: latents.json, train.npz, test.npz.

    Args:
        run: of the autoencoder.
        workdir: its folder.
        folder: where the latents go.
        with_files: whether latents are written, or their statistics alone.

    Returns:
        What latents.json says.
    """
    encode, dataset, counts = make_encode(run), run.dataset, {}
    moments: Moments | None = None
    for split in ("train", "test"):
        examples = dataset.split(split)
        counts[split] = len(examples)
        if not with_files and split == "test":
            continue
        columns = encode_split(encode, examples, split)
        if split == "train":
            moments = latent_moments(columns["means"], columns.get("stds"))
        if with_files:
            save_arrays(folder / f"{split}.npz", columns)
    assert moments is not None
    facts = {
        "shape": moments.shape,
        "num_classes": dataset.num_classes,
        "counts": counts,
        "mean": moments.mean.tolist(),
        "std": moments.std.tolist(),
        "decoder_std": decoder_error(run),
        "source": source_of(read_config(workdir)),
        "autoencoder": {
            "run": str(workdir.resolve()),
            "step": run.step,
            "checksum": run.digest,
        },
    }
    # Last, so that latents without it are not taken for whole.
    write_json(folder / encoded.FILE, json.loads(json.dumps(facts)))
    return facts


class Moments(NamedTuple):
    """Moments of each channel of latents that are drawn from their posteriors."""

    shape: tuple[int, ...]
    """Of the latents of one image."""
    mean: np.ndarray
    std: np.ndarray


def latent_moments(means: np.ndarray, stds: np.ndarray | None) -> Moments:
    """The moments of each channel of latents drawn from their posteriors.

    The variance is that of the means and the mean of the posteriors' variances.

    Args:
        means: [examples, *positions, channels].
        stds: alike; None for an encoder without noise.
    """
    axes = tuple(range(means.ndim - 1))
    wide = means.astype(np.float64)
    variance = wide.var(axes)
    if stds is not None:
        variance = variance + (stds.astype(np.float64) ** 2).mean(axes)
    return Moments(means.shape[1:], wide.mean(axes), np.sqrt(variance))


def decoder_error(run: Run) -> float:
    """Root mean squared error of training images decoded from draws of their latents.

    Args:
        run: of an autoencoder.
    """
    experiment, mesh = run.experiment, local_mesh()
    coder: Coder = experiment.model.network.parts
    levels, examples = experiment.dataset.num_levels, experiment.dataset.train
    size = divisible(BATCH, mesh)

    def squared(params: Params, keys: Key, values: Array) -> Array:
        x = data.centres(values, num_levels=levels)
        z = coder.encode(params, x).sample(keys)
        return mean_over_data((coder.decode(params, z) - x) ** 2)

    compiled = map_examples(squared, mesh, EVERYWHERE, BY_EXAMPLE, BY_EXAMPLE)
    found = []
    for first in with_bar("decoding", range(0, len(examples), size)):
        index = np.arange(first, first + size) % len(examples)
        keys = example_keys(jax.random.key(experiment.seed), size, first=first)
        errors = compiled(run.params["network"], keys, examples[index]["values"])
        found.append(np.asarray(errors)[: len(examples) - first])
    return float(np.sqrt(np.concatenate(found).astype(np.float64).mean()))


def encode_split(
    encode: encoded.Encode, examples: Any, split: str
) -> dict[str, np.ndarray]:
    """The means, standard deviations and labels of all latents of a split.

    Args:
        encode: stored images -> (means, standard deviations or None).
        examples: of the split.
        split: its name, for the bar.
    """
    parts: dict[str, list[np.ndarray]] = {}
    size = divisible(BATCH, local_mesh())
    for first in with_bar(f"encoding {split}", range(0, len(examples), size)):
        rows = examples[np.arange(first, min(first + size, len(examples)))]
        means, stds = encode(rows["values"])
        found = {"means": means, "stds": stds, "labels": rows.get("label")}
        for name, array in found.items():
            if array is not None:
                parts.setdefault(name, []).append(array)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}
