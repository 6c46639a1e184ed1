"""A trained digits run beside simple baselines, in one command.

    python -m benchmarks.digits --workdir=runs/digits [--json=FILE]

Bits/dim of the held-out digits under the model, a Gaussian mixture with full
covariances (scikit-learn; the number of components and the regularisation chosen on a
part of the training images), and independent pixels (a smoothed histogram of each).
Then, how sure a classifier trained on the real digits is of the model's samples; and
what `score-sde evaluate` wrote of them, where it did: the Frechet distance in the
features of its classifier, its floor, the share that is sure, and seconds.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture

from benchmarks import record
from benchmarks.splits import all_rows
from score_sde.data import DATASETS, Dataset


def histogram_bits(digits: Dataset) -> np.ndarray:
    """Bits/dim per test image of independent pixels, smoothed by half a count."""
    train, test = (
        all_rows(a)["values"].reshape(len(a), -1) for a in (digits.train, digits.test)
    )
    levels = np.arange(digits.num_levels)
    counts = (train[:, :, None] == levels[None, None]).sum(0) + 0.5
    log_mass = np.log2(counts / counts.sum(1, keepdims=True))
    return -log_mass[np.arange(test.shape[1])[None], test].mean(1)


def mixture_bits(digits: Dataset) -> tuple[np.ndarray, dict[str, float]]:
    """Bits/dim per test image of a mixture on dequantised pixels, and its settings."""
    random = np.random.RandomState(0)

    def dequantised(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), -1)
        return (flat + random.uniform(size=flat.shape)) / digits.num_levels

    def bits(model: GaussianMixture, x: np.ndarray) -> np.ndarray:
        nats_per_dim = model.score_samples(x) / x.shape[1]
        return -nats_per_dim / math.log(2) + math.log2(digits.num_levels)

    def fitted(x: np.ndarray, components: int, floor: float) -> GaussianMixture:
        return GaussianMixture(
            components, covariance_type="full", reg_covar=floor, random_state=0
        ).fit(x)

    train, test = (
        dequantised(all_rows(a)["values"]) for a in (digits.train, digits.test)
    )
    fit, validate = train[:1150], train[1150:]
    grid = [(c, f) for c in (1, 5, 10, 20, 40) for f in (1e-4, 3e-4, 1e-3, 3e-3)]
    components, floor = min(
        grid, key=lambda cf: bits(fitted(fit, *cf), validate).mean()
    )
    settings = {"components": components, "reg_covar": floor}
    return bits(fitted(train, components, floor), test), settings


def confidence(digits: Dataset, images: np.ndarray) -> tuple[float, np.ndarray]:
    """(share of images with a class above 0.9, images per class) of a classifier."""

    def flat(images: np.ndarray) -> np.ndarray:
        return 2 * images.reshape(len(images), -1) / (digits.num_levels - 1) - 1

    classifier = LogisticRegression(max_iter=5_000)
    classifier.fit(
        flat(all_rows(digits.train)["values"]), all_rows(digits.train)["label"]
    )
    probability = classifier.predict_proba(flat(images))
    counts = np.bincount(probability.argmax(1), minlength=digits.num_classes)
    return float((probability.max(1) > 0.9).mean()), counts


def quality(report: dict[str, Any]) -> dict[str, Any]:
    """The numbers of evaluation.json that the record keeps, those that are there.

    Args:
        report: the content of the file.
    """
    ends, found = ("value", "low", "high"), dict[str, Any]()
    for name, part in (("frechet_distance", "value"), ("class_statistics", "sure")):
        rows = report["metrics"].get(name, {})
        for side in (s for s in ("samples", "floor") if s in rows):
            row = rows[side][part]
            found.setdefault(name, {})[side] = {end: row[end] for end in ends}
    seconds = {"seconds": report["made"]["seconds"]} if "made" in report else {}
    return {**found, "features": report["features"], **seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/digits"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    digits = DATASETS["digits"]()

    scores = np.load(arguments.workdir / "likelihood.npz")
    mixture, settings = mixture_bits(digits)
    rows = {
        "score model": scores["test_bits_per_dim"],
        "score model, on training images": scores["train_bits_per_dim"],
        "Gaussian mixture": mixture,
        "independent pixels": histogram_bits(digits),
    }
    print("bits/dim")
    table = {}
    for name, values in rows.items():
        mean, error = values.mean(), values.std(ddof=1) / math.sqrt(len(values))
        table[name] = [float(mean), float(error)]
        print(f"  {name:<32} {mean:.3f} +- {error:.3f}  ({len(values)} images)")
    print(f"  mixture chosen on training images: {settings}")

    samples = np.load(arguments.workdir / "samples.npz")["samples"]
    sure, counts = confidence(digits, samples)
    real, _ = confidence(digits, all_rows(digits.test)["values"])
    print(f"a classifier is sure (> 0.9) of {sure:.1%} of {len(samples)} samples,")
    print(
        f"  of {real:.1%} of the held-out digits; samples per class: {counts.tolist()}"
    )
    result: dict[str, Any] = {
        "bits_per_dim": table,
        "sure": sure,
        "sure_of_real": real,
        "samples_per_class": counts.tolist(),
    }
    report = arguments.workdir / "evaluation.json"
    if report.exists():
        found = quality(json.loads(report.read_text()))
        result["quality"] = found
        for name in ("frechet_distance", "class_statistics"):
            print(f"{name}: {found.get(name, 'not measured')}")
    record.write(arguments.json, record.circumstances("flax") | result)


if __name__ == "__main__":
    main()
