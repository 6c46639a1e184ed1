"""How good super-resolution is: samples of held-out small pictures beside the truth.

    psnr, ssim     beside the image itself; the posterior mean wins them, not a sample
    lpips          alike, where features.name is 'lpips_vgg' and its weights are there
    consistency    mean squared difference of a sample's own small picture and the one
                   that was told, in grey levels squared
    mean_colour    mean difference of a sample and the picture that was told, in grey
                   levels, over all pixels and colours
    frechet_distance   of the features of the config, if it measures it

and the same of what needs no model: the small picture made bigger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_sde import conditions
from score_sde.conditions import SmallPicture
from score_sde.data import centres, to_levels
from score_sde.evaluation.classifier import full_range
from score_sde.evaluation.features import LPIPS
from score_sde.resizing import resized
from score_sde.run import pairs
from score_sde.run.evaluate import make_measure
from score_sde.run.experiment import Experiment
from score_sde.run.extraction import Extraction, open_features

WAYS = ("nearest", "bilinear", "bicubic")
"""How the small picture is made bigger, to be measured beside samples."""
SHOWN = 8
"""Small pictures in a row of the picture."""


def told_small(experiment: Experiment) -> SmallPicture | None:
    """The small pictures of held-out images that samples are told; None for others.

    Args:
        experiment: whose samples may be told other things, or none.
    """
    small = conditions.small_picture(experiment.model.conditions)
    stated = any(c.small and c.samples for c in experiment.model.conditions)
    is_whole = experiment.dataset.part is None and experiment.shown.num_levels
    return small if is_whole and not stated else None


def beside_truth(
    experiment: Experiment,
    config: Mapping[str, Any],
    samples: np.ndarray,
    extraction: Extraction | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure samples, and bigger small pictures, beside the held-out images.

    Args:
        experiment: whose samples were told small pictures of held-out images in turn.
        config: the complete config.
        samples: all that were drawn, in levels, in their order.
        extraction: the features of the config, where they are open; None to open them
            if a number is made of them.

    Returns:
        "samples" and each of `WAYS` -> name of a number -> its value, low and high.
    """
    small = told_small(experiment)
    assert small is not None
    test = experiment.dataset.test
    rows = test[np.arange(len(samples)) % len(test)]
    y = np.asarray(small.of_rows(rows))
    is_lpips = config["features"]["name"] in LPIPS
    known = {n: m for n, m in experiment.metrics.items() if n == "frechet_distance"}
    if extraction is None and (is_lpips or known):  # they may be costly to open
        extraction = open_features(experiment, config)
    embed = extraction.of_images if extraction is not None and is_lpips else None

    def numbers(made: np.ndarray) -> dict[str, Any]:
        return _row(experiment, small, y, rows["values"], made, embed)

    found, bigger = {"samples": numbers(samples)}, made_bigger(experiment, y)
    found |= {how: numbers(images) for how, images in bigger.items()}
    if known:
        alone = experiment._replace(metrics=known)
        measure = make_measure(alone, config, extraction=extraction)
        for how, images in bigger.items():
            found[how]["frechet_distance"] = _distance(measure(images))
    return found


def made_bigger(experiment: Experiment, y: np.ndarray) -> dict[str, np.ndarray]:
    """Small pictures resized to the images' sides, as levels, in each of `WAYS`."""
    height, width = experiment.dataset.shape[:2]
    levels = experiment.dataset.num_levels
    return {
        how: np.asarray(
            to_levels(jnp.asarray(resized(y, (height, width), how)), num_levels=levels)
        )
        for how in WAYS
    }


def _row(
    experiment: Experiment,
    small: SmallPicture,
    y: np.ndarray,
    truth: np.ndarray,
    made: np.ndarray,
    embed: Callable[[np.ndarray], np.ndarray] | None,
) -> dict[str, Any]:
    """The numbers of images that were made of small pictures y."""
    levels = experiment.dataset.num_levels
    assert levels is not None  # the condition is for images of levels
    real, fake = full_range(truth, levels), full_range(made, levels)
    found = pairs.beside(fake, real, embed)
    x = centres(made, num_levels=levels)
    gap = (np.asarray(small.of_images(x)) - y).reshape(len(y), -1) * (levels / 2)
    found["consistency"] = pairs.mean((gap**2).mean(1))
    found["consistency"]["root"] = float(np.sqrt((gap**2).mean()))
    colour = (x.reshape(len(x), -1).mean(1) - y.reshape(len(y), -1).mean(1)) * levels
    found["mean_colour"] = pairs.mean(colour / 2)
    return found


def _distance(found: Mapping[str, float]) -> dict[str, float]:
    """The Frechet distance among the numbers of `make_measure`, as reports have it."""
    none, name = float("nan"), "frechet_distance"
    ends = {end: found.get(f"{name}.{end}", none) for end in ("low", "high")}
    return {"value": found[name], **ends}


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each way to make the images, a column for each number."""
    names = list(dict.fromkeys(n for row in found.values() for n in row))
    lines = [f"{'beside the truth':<18}" + "".join(f"{n:>18}" for n in names)]
    for made, row in found.items():
        cells = [f"{row[n]['value']:.4g}" if n in row else "" for n in names]
        lines.append(f"{made:<18}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def picture(experiment: Experiment, samples: np.ndarray) -> np.ndarray:
    """Rows of images: told and made bigger by copies, drawn, true; again and again.

    Args:
        experiment: whose samples they are.
        samples: in levels, in their order.
    """
    small = told_small(experiment)
    assert small is not None
    test = experiment.dataset.test
    count = min(4 * SHOWN, len(samples), len(test)) // SHOWN * SHOWN
    rows = test[np.arange(count)]
    told = made_bigger(experiment, np.asarray(small.of_rows(rows)))["nearest"]
    groups = [
        part[first : first + SHOWN]
        for first in range(0, count, SHOWN)
        for part in (told, samples, rows["values"])
    ]
    return np.concatenate(groups) if groups else samples[:0]
