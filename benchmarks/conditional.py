"""How well digits follow their condition: class, guidance, negative label, Bayes' rule.

    python -m benchmarks.conditional --workdir=runs/class [--json=FILE] [--scored=360]

Samples at several weights are judged by a support vector machine (scikit-learn)
trained on the real digits. Then the held-out digits are classified by the
model itself: the class under which each is likeliest. Last, what guidance costs.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.svm import SVC

from benchmarks import record
from benchmarks.splits import all_rows
from benchmarks.turns import in_turns
from score_sde import conditions, evaluation, guidance
from score_sde.conditions import captions
from score_sde.data import Dataset
from score_sde.run.likelihoods import class_log_probs
from score_sde.run.model import denoiser
from score_sde.run.open import open_run
from score_sde.run.sample import draw_samples, sample_keys
from score_sde.types import NO_LABEL


def judge(digits: Dataset) -> Any:
    """(images -> classes) of a classifier that saw the real training digits alone."""

    def flat(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1) / (digits.num_levels - 1)

    fitted = SVC(gamma="scale", C=10.0).fit(
        flat(all_rows(digits.train)["values"]), all_rows(digits.train)["label"]
    )
    return lambda images: fitted.predict(flat(images))


def drawn(experiment: Any, params: Any, labels: np.ndarray, **options: Any) -> Any:
    """Samples of these labels, [count, *shape] levels, under guidance of `options`."""
    guide = partial(guidance.GUIDANCES["classifier_free"], **options)
    drawing = experiment.drawing._replace(guidance=guide)
    run = jax.jit(partial(draw_samples, experiment.model, drawing))
    keys = sample_keys(experiment.seed, 0, len(labels))
    return np.asarray(run(params, keys, told(experiment, labels)).levels)


def told(experiment: Any, labels: np.ndarray) -> Any:
    """What is told of these classes: themselves, or captions of them."""
    return conditions.of_examples(experiment.model.conditions, {"label": labels})


def negative(experiment: Any, label: int) -> dict[str, Any]:
    """The option of guidance away from a class."""
    if "words" in told(experiment, np.asarray([label])):
        return {
            "negative_caption": captions.TEMPLATES[0].format(captions.NUMBERS[label])
        }
    return {"negative_label": label}


def spread(images: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of the standard deviation of a pixel, in grey levels."""
    classes = [images[labels == c].astype(float) for c in np.unique(labels)]
    return float(np.mean([np.sqrt(c.var(0).mean()) for c in classes]))


def by_bayes(experiment: Any, params: Any, count: int, batch: int) -> dict[str, Any]:
    """How many held-out digits are likeliest under their own class, and how surely."""
    test = experiment.dataset.test
    run = jax.jit(
        partial(
            class_log_probs,
            experiment.model,
            experiment.likelihood,
            num_classes=experiment.dataset.num_classes,
        )
    )
    start, rows = time.monotonic(), []
    for first in range(0, count, batch):
        index = np.arange(first, first + batch) % count
        keys = sample_keys(experiment.seed, first, batch)
        rows.append(np.asarray(run(params, keys, keys, test[index]["values"])))
    nats = np.concatenate(rows)[:count]
    error = evaluation.calibration_error(nats, all_rows(test)["label"][:count])
    return {
        "count": count,
        "accuracy": error.parts["accuracy"],
        "confidence": error.parts["confidence"],
        "calibration_error": [error.value, error.low, error.high],
        "calibration_floor": error.parts["floor"],
        "seconds": round(time.monotonic() - start, 1),
    }


def overhead(experiment: Any, params: Any, batch: int = 100) -> dict[str, float]:
    """Time of a guided step over that of a plain one, in turns."""
    plain = denoiser(experiment.model, params)
    inside, whole = guidance.interval(3.0, 0.1, 2.0), 3.0
    makers = {
        "plain": plain,
        "one_call": guidance.classifier_free(plain, whole),
        "two_calls": guidance.classifier_free(plain, whole, one_call=False),
        "interval": guidance.classifier_free(plain, inside),
    }
    cond = told(experiment, np.zeros(batch, np.int32))
    x = jax.random.normal(jax.random.key(0), (batch, *experiment.dataset.shape))
    sigmas = experiment.drawing.grid()

    def fold(denoise: Any, x: Any) -> Any:
        from score_sde.samplers import sample

        return sample("euler", denoise, sigmas[0] * x, sigmas, cond=cond).x

    compiled = {n: jax.jit(partial(fold, d)) for n, d in makers.items()}
    seconds = in_turns(
        {n: lambda run=run: run(x).block_until_ready() for n, run in compiled.items()},
        repeat=15,
    )
    best = {name: min(times) for name, times in seconds.items()}
    evals = guidance.network_evals(makers["interval"], sigmas[:-1]).sum()
    ratios = {f"{n}_over_plain": best[n] / best["plain"] for n in best if n != "plain"}
    return ratios | {
        "interval_evals_over_plain": float(evals) / (len(sigmas) - 1),
        "plain_ms_per_step": 1e3 * best["plain"] / (len(sigmas) - 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/class"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--scored", type=int, default=360)
    arguments = parser.parse_args()
    run = open_run(arguments.workdir)
    experiment, params, digits = run.experiment, run.params, run.experiment.dataset
    classify = judge(digits)
    real = float(
        (
            classify(all_rows(digits.test)["values"]) == all_rows(digits.test)["label"]
        ).mean()
    )
    result: dict[str, Any] = {"judge_on_held_out": real, "weights": {}}
    print(f"the judge knows {real:.1%} of the held-out digits")
    labels = (np.arange(arguments.count) % 10).astype(np.int32)
    for weight in (0.0, 1.0, 3.0):
        images = drawn(experiment, params, labels, weight=weight)
        found = float((classify(images) == labels).mean())
        row = {"requested_class": found, "spread": spread(images, labels)}
        result["weights"][str(weight)] = row
        print(f"weight {weight}: {found:.1%} as requested, spread {row['spread']:.2f}")
    seen = all_rows(digits.train)
    print(f"real digits: spread {spread(seen['values'], seen['label']):.2f}")

    nothing = np.full(arguments.count, NO_LABEL, np.int32)
    avoided = 3
    shares = {}
    for name, options in (
        ("without", {"weight": 1.0}),
        ("with", {"weight": 3.0} | negative(experiment, avoided)),
    ):
        images = drawn(experiment, params, nothing, **options)
        shares[name] = float((classify(images) == avoided).mean())
    result["negative_label"] = {"label": avoided} | shares
    print(
        f"class {avoided}: {shares['without']:.1%} of unconditional samples, "
        f"{shares['with']:.1%} with that as negative label"
    )
    result["overhead"] = overhead(experiment, params)
    print(
        "overhead: " + ", ".join(f"{n} {v:.2f}" for n, v in result["overhead"].items())
    )
    if arguments.scored:
        bayes = by_bayes(experiment, params, arguments.scored, 60)
        result["bayes"] = bayes
        print(
            f"Bayes' rule: {bayes['accuracy']:.1%} of {bayes['count']} held-out "
            f"digits, {bayes['seconds']} s, calibration error "
            f"{bayes['calibration_error'][0]:.3f}"
        )
    record.write(arguments.json, record.circumstances("flax") | result)


if __name__ == "__main__":
    main()
