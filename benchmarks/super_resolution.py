"""Digits from 4x4 pixels: trained, by training-free methods, and as a cascade.

    python -m benchmarks.super_resolution --runs=runs [--json=FILE] [--only=PART]

Of the runs super_resolution, regression and small (variants of configs/digits.py) and
digits, the unconditional one. `methods`: the 360 held-out digits, one sample each, of
the trained network at level 0, the network of equal size that was trained to predict
the mean, resizes, and training-free methods. `levels`: the noise in the small picture,
swept in sampling: Frechet distances to the training digits.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import record
from benchmarks.conditional import judge
from benchmarks.restoration_digits import judged, restored
from benchmarks.splits import all_rows
from score_sde import conditions
from score_sde.conditions import low_resolution
from score_sde.data import centres
from score_sde.evaluation import frechet_distance, psnr, ssim
from score_sde.evaluation.classifier import full_range
from score_sde.run.evaluate import measure
from score_sde.run.extraction import open_features
from score_sde.run.open import open_run
from score_sde.run.sample import draw_samples, sample_keys
from score_sde.run.super_resolution import made_bigger, told_small
from score_sde.runtime.folder import read_config

LEVELS = (0.0, 0.1, 0.25)
RESAMPLES = 200
METHODS: tuple[tuple[str, int, str, dict[str, Any]], ...] = (
    ("replace", 18, "heun", {}),
    ("repaint", 18, "", {}),
    ("ddrm", 18, "", {}),
    ("daps", 180, "", {"ode_steps": 1}),
)
"""(method, steps, sampler, options) of `benchmarks.restoration_digits`."""


def told_at(run: Any, level: float, entry: Any, keys: Any) -> Any:
    """What samples are told: an entry with noise of a level."""
    options = dict(run.config["conditions"]["low_resolution"]) | {"level": level}
    condition = low_resolution(dataset=run.experiment.dataset, **options)
    return conditions.in_sampling((condition,), keys, entry)


def drawer(run: Any) -> Any:
    """(keys, cond) -> samples in levels, compiled once for every level of noise."""
    draw = partial(draw_samples, run.experiment.model, run.experiment.drawing)
    compiled = jax.jit(lambda params, keys, cond: draw(params, keys, cond).levels)
    return lambda keys, cond: np.asarray(compiled(run.params, keys, cond))


def frechet(run: Any, images: np.ndarray) -> dict[str, float]:
    """Distance of the features of images to those of the training digits."""
    known = {"frechet_distance": run.experiment.metrics["frechet_distance"]}
    settings = dataclasses.replace(run.experiment.evaluation, num_shown=0)
    experiment = run.experiment._replace(metrics=known, evaluation=settings)
    rows = measure(experiment, run.config, images).metrics["frechet_distance"]
    value = rows["samples"]["value"]
    return {name: value[name] for name in ("value", "low", "high")}


def methods(folder: Path) -> list[dict[str, Any]]:
    """A row for each way to make the held-out digits bigger."""
    run = open_run(folder / "super_resolution")
    say, test = judged(run), run.dataset.test
    rows_of = all_rows(test)
    told = conditions.of_examples(run.experiment.model.conditions, rows_of)
    keys = sample_keys(0, 0, len(test))
    small = told_small(run.experiment)
    assert small is not None
    made = {"trained": (drawer(run)(keys, told), 35)}
    if (folder / "regression").exists():
        mean = open_run(folder / "regression")
        entry = conditions.of_examples(mean.experiment.model.conditions, rows_of)
        made["regression"] = (drawer(mean)(keys, entry), 1)
    bigger = made_bigger(run.experiment, np.asarray(small.of_rows(rows_of)))
    made |= {how: (images, 0) for how, images in bigger.items() if how != "bilinear"}
    plain = open_run(folder / "digits")
    for method, steps, sampler, options in METHODS:
        x, evals = restored(plain, method, steps, sampler, options)
        images = np.clip(np.floor((x + 1) * 17 / 2), 0, 16).astype(np.uint8)
        made[method] = (images, evals)
    found = []
    for name, (images, evals) in made.items():
        x = np.asarray(centres(images, num_levels=17))
        pair = full_range(images, 17), full_range(all_rows(test)["values"], 17)
        row = {"method": name, "evaluations": evals, **say(x)}
        row |= {
            "psnr": psnr(*pair).value,
            "ssim": ssim(*pair, window=7).value,
            "mean_colour": float(
                (x - centres(all_rows(test)["values"], num_levels=17)).mean() * 8.5
            ),
            "frechet_distance": frechet(run, images),
        }
        found.append(row)
        print(json.dumps(row), flush=True)
    return found


def levels(folder: Path, count: int) -> list[dict[str, Any]]:
    """Frechet distances over the level of the noise in the small picture.

    Of pictures of held-out digits (true), of those that the first stage draws (drawn),
    and of those that it draws in three steps (rough). The interval is that of the
    difference to level 0 of the same pictures and the same noise, over resamples.
    """
    run = open_run(folder / "super_resolution")
    keys, index = sample_keys(0, 0, count, stage=1), np.arange(count)
    told, small = run.experiment.model.conditions, told_small(run.experiment)
    test = run.dataset.test
    assert small is not None
    entries = {}
    for name, num_steps in (("rough", 3), ("drawn", 18)):
        config = read_config(folder / "small")
        grid = {**config["grid"], "num_steps": num_steps}
        first = open_run(folder / "small", {**config, "grid": grid})
        entry = small.of_drawn(first.sample(count).points)
        entries[name] = jax.tree.map(np.asarray, entry)
    entries["true"] = conditions.of_examples(told, test[index % len(test)])
    extraction = open_features(run.experiment, run.config)
    real = extraction.features(all_rows(run.dataset.train)["values"])
    draw, classify, found = drawer(run), judge(run.dataset), []
    for name, entry in entries.items():
        first_level: Any = None
        for level in LEVELS:
            images = draw(keys, told_at(run, level, entry, keys))
            features = extraction.features(images)
            value = frechet_distance(real, features, level=None).value
            row: dict[str, Any] = {"told": name, "level": level, "value": value}
            if first_level is None:
                first_level = features
            else:
                row["less_than_at_0"] = _difference(real, features, first_level)
            if name == "true":
                kept = classify(images) == all_rows(test)["label"][index % len(test)]
                row["class"] = float(kept.mean())
            found.append(row)
            print(json.dumps(row), flush=True)
    return found


def _difference(real: np.ndarray, some: np.ndarray, other: np.ndarray) -> list[float]:
    """The interval of the distance of some less that of others, of the same rows."""
    random, gaps = np.random.default_rng(0), []
    mean, covariance = real.mean(0), np.cov(real.T)
    powers, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(powers, 0)) @ vectors.T

    def distance(features: np.ndarray) -> float:
        own = np.cov(features.T)
        inner = np.linalg.eigvalsh(root @ own @ root)
        trace = np.trace(own) - 2 * np.sqrt(np.maximum(inner, 0)).sum()
        return float(((features.mean(0) - mean) ** 2).sum() + trace)

    for _ in range(RESAMPLES):
        rows = random.integers(len(some), size=len(some))
        gaps.append(distance(some[rows]) - distance(other[rows]))
    return [float(q) for q in np.quantile(gaps, (0.025, 0.975))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=("methods", "levels"))
    parser.add_argument("--count", type=int, default=720)
    arguments = parser.parse_args()
    result = {}
    if arguments.json and arguments.json.exists():
        result = json.loads(arguments.json.read_text())["rows"]
    if arguments.only in (None, "methods"):
        result["methods"] = methods(arguments.runs)
    if arguments.only in (None, "levels"):
        result["levels"] = levels(arguments.runs, arguments.count)
    record.write(arguments.json, record.circumstances("flax") | {"rows": result})


if __name__ == "__main__":
    main()
