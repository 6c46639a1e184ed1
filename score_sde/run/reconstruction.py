"""Measuring an autoencoder: its reconstructions, its codebook, its latents."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import data
from score_sde.evaluation import METRICS, estimates_of
from score_sde.evaluation.classifier import full_range
from score_sde.latents import Coder
from score_sde.latents.codebook import perplexity
from score_sde.run import pairs
from score_sde.run.extraction import in_parts, open_features
from score_sde.run.latents import encode_split, latent_moments, make_encode
from score_sde.run.open import Run
from score_sde.runtime.jobs import BY_EXAMPLE, EVERYWHERE, map_examples
from score_sde.runtime.mesh import divisible, local_mesh
from score_sde.runtime.progress import with_bar
from score_sde.types import Array, Params, UserError

BATCH = 256
PAIRS = 16
"""Images beside their reconstructions whose features are compared at once."""
SHOWN = 32


class Measured(NamedTuple):
    """The measurements of an autoencoder."""

    report: dict[str, Any]
    images: np.ndarray
    """The first held-out images, as they are stored."""
    reconstructions: np.ndarray
    """Alike."""


def measure(run: Run) -> Measured:
    """Measure the reconstructions of the held-out images.

    The Frechet distance between images and their own reconstructions is the floor that
    samples of a diffusion in these latents are not expected to come below.

    Raises:
        UserError: if a reconstruction is not finite.
    """
    experiment = run.experiment
    images = _all_values(experiment.dataset.test)
    made = reconstruct(run, images)
    levels = experiment.dataset.num_levels
    real, fake = full_range(images, levels), full_range(made, levels)
    found = pairs.beside(fake, real)
    extraction = open_features(experiment, run.config)
    metric = METRICS["frechet_distance"]
    features = [
        in_parts(None, len(a), a.__getitem__, extraction, logits=False)["features"]
        for a in (images, made)
    ]
    for name, estimate in estimates_of(metric(*features)).items():
        found[f"rfd_{name}".rstrip("_")] = pairs.row(estimate)
    found |= _perceptual(run, images, made)
    report = {
        "examples": len(images),
        "features": extraction.identity,
        "metrics": found,
        **latent_statistics(run),
    }
    return Measured(report, images[:SHOWN], made[:SHOWN])


def reconstruct(run: Run, images: np.ndarray) -> np.ndarray:
    """The reconstructions of stored images, from the means of their latents.

    Raises:
        UserError: if one of them is not finite: as levels it would be black.
    """
    experiment, mesh = run.experiment, local_mesh()
    coder: Coder = experiment.model.network.parts
    levels, size = experiment.dataset.num_levels, divisible(BATCH, mesh)

    def made(params: Params, values: Array) -> tuple[Array, Array]:
        x = data.centres(values, num_levels=levels)
        out = coder.decode(params, coder.encode(params, x).mean)
        finite = jnp.isfinite(out.reshape(len(out), -1)).all(1)
        return data.to_levels(out, num_levels=levels), finite

    compiled = map_examples(made, mesh, EVERYWHERE, BY_EXAMPLE)
    parts = []
    for first in with_bar("reconstructing", range(0, len(images), size)):
        part = images[first : first + size]
        padded = np.resize(part, (size, *part.shape[1:]))
        out, finite = jax.device_get(compiled(run.params["network"], padded))
        if not finite[: len(part)].all():
            raise UserError("the autoencoder's reconstructions are not finite.")
        parts.append(out[: len(part)])
    return np.concatenate(parts)


def latent_statistics(run: Run) -> dict[str, Any]:
    """Moments of the latents' channels over the training images, and codebook use.

    The codes are counted over all of them: in a batch few are ever used.
    """
    coder: Coder = run.experiment.model.network.parts
    columns = encode_split(make_encode(run), run.dataset.train, "train")
    means = columns["means"]
    moments = latent_moments(means, columns.get("stds"))
    found: dict[str, Any] = {
        "latents": {
            "shape": list(moments.shape),
            "mean": moments.mean.tolist(),
            "std": moments.std.tolist(),
        }
    }
    if coder.codes is None:
        return found
    codes_of = jax.jit(coder.codes)
    counts = np.zeros(coder.num_codes, np.int64)
    for first in with_bar("counting codes", range(0, len(means), BATCH)):
        codes = codes_of(run.params["network"], means[first : first + BATCH])
        counts += np.bincount(np.asarray(codes).ravel(), minlength=coder.num_codes)
    found["codebook"] = {
        "size": coder.num_codes,
        "used": int((counts > 0).sum()),
        "perplexity": float(perplexity(jnp.asarray(counts, jnp.float32))),
    }
    return found


def _perceptual(run: Run, images: np.ndarray, made: np.ndarray) -> dict[str, Any]:
    """The mean of the loss's own distance of features, under its name."""
    objective: Any = run.experiment.objective
    if objective.distance is None:
        return {}
    centres = partial(data.centres, num_levels=run.dataset.num_levels)
    between = jax.jit(lambda x, y: objective.distance(centres(x), centres(y)))
    parts = with_bar(objective.perceptual, range(0, len(images), PAIRS))
    each = [
        np.asarray(between(images[i : i + PAIRS], made[i : i + PAIRS])) for i in parts
    ]
    return {objective.perceptual: pairs.mean(np.concatenate(each))}


def _all_values(examples: Any) -> np.ndarray:
    blocks = range(0, len(examples), 16 * BATCH)
    rows = (np.arange(i, min(i + 16 * BATCH, len(examples))) for i in blocks)
    return np.concatenate([examples[row]["values"] for row in rows])


def table(report: Mapping[str, Any]) -> str:
    """The report as text."""
    lines = [
        f"  {name:<18} {row['value']:.4g} ({row['low']:.4g} to {row['high']:.4g})"
        for name, row in report["metrics"].items()
    ]
    latents = report["latents"]
    lines.append(
        f"  {'latents':<18} {tuple(latents['shape'])}, a channel's mean and std:"
    )
    rows = zip(latents["mean"], latents["std"], strict=True)
    lines += [f"{'':<21}{mean:+.3f} {std:.3f}" for mean, std in rows]
    if "codebook" in report:
        book = report["codebook"]
        lines.append(
            f"  {'codebook':<18} {book['used']} of {book['size']} codes used over the "
            f"training images, perplexity {book['perplexity']:.1f}"
        )
    return "\n".join(lines)
