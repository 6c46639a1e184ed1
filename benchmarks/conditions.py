"""How well digits follow numbers, pictures and a control branch, and what guides them.

    python -m benchmarks.conditions [--runs=runs] [--json=FILE] [--picture=FILE]

Of the runs digits (unconditional), vector, image, control and worse, as far as they are
there; docs/guidance.md says how they were trained. What samples were asked for is that
of the 360 held-out digits, one each. The picture, of all runs, has rows of eight:
digits, what is told of them in 4x4 pixels, drawn; silhouettes, drawn, and by the frozen
network alone; slants of -0.25 and 0.25.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import record
from benchmarks.conditional import judge
from benchmarks.restoration_digits import table
from benchmarks.splits import all_rows
from experiments import launch
from score_sde import conditions, guidance
from score_sde.conditions.attributes import measured
from score_sde.data import centres
from score_sde.evaluation.plots import save_samples
from score_sde.measurements import Downsample
from score_sde.run.open import open_run
from score_sde.run.sample import draw_samples, sample_keys


def opened(folder: Path, *arguments: str) -> Any:
    """The run there."""
    command = launch.parse("", [f"--workdir={folder}", *arguments])
    return open_run(folder, command.config)


def asked(run: Any) -> Any:
    """What samples are told: what the held-out digits are."""
    held_out = run.experiment.dataset.test
    rows = all_rows(held_out)
    return conditions.of_examples(run.experiment.model.conditions, rows)


def drawn(run: Any, cond: Any, count: int, guide: Any = None) -> np.ndarray:
    """Samples that are told this, [count, *shape] in [-1, 1]."""
    experiment, drawing = run.experiment, run.experiment.drawing
    if guide is not None:
        drawing = drawing._replace(guidance=guide)
    keys = sample_keys(experiment.seed, 0, count)
    offers = run.companions.offers
    draw = jax.jit(partial(draw_samples, experiment.model, drawing, offers=offers))
    levels = np.asarray(draw(run.params, keys, cond).levels)
    return centres(levels, num_levels=experiment.dataset.num_levels)


def by_weight(run: Any, cond: Any, count: int) -> dict[str, np.ndarray]:
    """Samples at classifier-free weights."""
    away = guidance.GUIDANCES["classifier_free"]
    return {
        f"weight {weight:g}": drawn(run, cond, count, partial(away, weight=weight))
        for weight in (0.0, 1.0, 2.0)
    }


def of_vector(run: Any) -> dict[str, Any]:
    """Correlation and mean error of attributes, in their standard deviations."""
    names = run.config["conditions"]["vector"]["attributes"]
    cond = asked(run)
    wanted = measured(names, _held_out(run))
    rows: dict[str, Any] = {}
    for name, x in by_weight(run, cond, len(wanted)).items():
        found = measured(names, x)
        error = np.abs(found - wanted).mean(0) / wanted.std(0)
        rows[name] = {
            attribute: {
                "correlation": float(np.corrcoef(wanted[:, i], found[:, i])[0, 1]),
                "mean_error": float(error[i]),
            }
            for i, attribute in enumerate(names)
        }
    return rows


def of_image(run: Any, plain: Any) -> dict[str, Any]:
    """Super-resolution, trained and training-free, from the same small pictures.

    Root mean squares in grey levels: of the small picture of a sample beside the one
    given, and of a sample beside the digit. And the share that the judge puts into the
    digit's class.
    """
    x0, labels = _held_out(run), run.experiment.dataset.test.labels
    small = Downsample(run.config["conditions"]["image"]["factor"])
    levels = run.experiment.dataset.num_levels
    classify, rows = judge(run.experiment.dataset), {}

    def row(x: np.ndarray) -> dict[str, float]:
        gap = small(x) - small(x0)
        stored = np.clip(np.floor((x + 1) * levels / 2), 0, levels - 1)
        return {
            "small_picture": float(np.sqrt((gap**2).mean()) * levels / 2),
            "digit": float(np.sqrt(((x - x0) ** 2).mean()) * levels / 2),
            "class": float((classify(stored) == labels).mean()),
        }

    for name, x in by_weight(run, asked(run), len(x0)).items():
        rows[f"trained, {name}"] = row(x)
    rows |= {r.pop("method"): r for r in table(plain)}
    return rows


def of_control(run: Any, plain: Any) -> dict[str, Any]:
    """Share of the pixels whose side of the middle is that of the silhouette."""
    x0 = _held_out(run)
    wanted, labels = conditions.silhouette(x0), run.experiment.dataset.test.labels
    classify, levels = (
        judge(run.experiment.dataset),
        run.experiment.dataset.num_levels,
    )

    def row(x: np.ndarray) -> dict[str, float]:
        stored = np.clip(np.floor((x + 1) * levels / 2), 0, levels - 1)
        return {
            "pixels": float((conditions.silhouette(x) == wanted).mean()),
            "class": float((classify(stored) == labels).mean()),
        }

    uncontrolled = {"frozen alone": row(drawn(plain, None, len(x0)))}
    found = by_weight(run, asked(run), len(x0))
    return uncontrolled | {name: row(x) for name, x in found.items()}


def of_worse(folder: Path, worse: Path, count: int = 1_000) -> dict[str, Any]:
    """Share of the samples that a logistic regression is sure of, above 0.9."""
    from sklearn.linear_model import LogisticRegression

    rows: dict[str, Any] = {}
    for name, arguments in (
        ("the model", ()),
        ("the worse model", None),
        *((f"weight {w:g}", (f"--config.guidance.weight={w}",)) for w in (1.5, 2, 3)),
    ):
        if arguments is None:
            run = opened(worse)
        elif arguments:
            auto = (
                "--config.guidance.name=auto",
                f"--config.companions.worse.run={worse}",
            )
            run = opened(folder, *auto, *arguments)
        else:
            run = opened(folder)
        if not rows:
            digits = run.experiment.dataset
            flat = lambda x: x.reshape(len(x), -1)  # noqa: E731
            train = flat(centres(digits.train.values, num_levels=digits.num_levels))
            judge_ = LogisticRegression(max_iter=2_000).fit(train, digits.train.labels)
            rows["real, held out"] = _sureness(judge_, flat(_held_out(run)))
        x = drawn(run, None, count)
        rows[name] = _sureness(judge_, flat(x)) | {
            "spread": float(np.sqrt(x.var(0).mean()) * digits.num_levels / 2)
        }
    return rows


def rows_of_eight(folder: Path) -> np.ndarray:
    """The picture, [64, *shape] in [-1, 1]."""
    runs = {n: opened(folder / n) for n in ("digits", "vector", "image", "control")}
    x0 = _held_out(runs["digits"])[:8]
    rows = [x0]
    for name in ("image", "control"):
        cond = jax.tree.map(lambda a: a[:8], asked(runs[name]))
        rows += [cond["image"][..., :1], drawn(runs[name], cond, 8)]
    rows.append(drawn(runs["digits"], None, 8))
    (told,) = runs["vector"].experiment.model.conditions
    cond = told.of_examples(
        {"values": runs["vector"].experiment.dataset.test.values[:8]}
    )
    names = runs["vector"].config["conditions"]["vector"]["attributes"]
    known = measured(names, _train(runs["vector"])[:2_000])
    for slant in (-0.25, 0.25):
        vector, i = np.array(cond["vector"]), names.index("slant")
        vector[:, i] = (slant - known[:, i].mean()) / known[:, i].std()
        rows.append(drawn(runs["vector"], {"vector": vector}, 8))
    return np.concatenate(rows)


def _train(run: Any) -> np.ndarray:
    dataset = run.experiment.dataset
    return np.asarray(centres(dataset.train.values, num_levels=dataset.num_levels))


def _sureness(judge_: Any, x: np.ndarray) -> dict[str, Any]:
    probability = judge_.predict_proba(x)
    counts = np.bincount(probability.argmax(1), minlength=10) / len(x)
    return {
        "sure": float((probability.max(1) > 0.9).mean()),
        "rarest_class": float(counts.min()),
    }


def _held_out(run: Any) -> np.ndarray:
    dataset = run.experiment.dataset
    return np.asarray(centres(dataset.test.values, num_levels=dataset.num_levels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    folder = arguments.runs
    there = {path.name for path in folder.iterdir()}
    plain = opened(folder / "digits")
    jobs = {
        "vector": lambda: of_vector(opened(folder / "vector")),
        "image": lambda: of_image(opened(folder / "image"), plain),
        "control": lambda: of_control(opened(folder / "control"), plain),
        "worse": lambda: of_worse(folder / "digits", folder / "worse"),
    }
    result = {}
    for name in sorted(jobs.keys() & there):
        result[name] = jobs[name]()
        print(name)
        for row, values in result[name].items():
            print(f"  {row:<36} {_text(values)}", flush=True)
    if arguments.picture:
        levels = plain.experiment.dataset.num_levels
        x = (rows_of_eight(folder) + 1) / 2 * (levels - 1)
        save_samples(arguments.picture, x, num_levels=levels)
    record.write(arguments.json, record.circumstances("flax") | result)


def _text(values: Any) -> str:
    if not isinstance(values, dict):
        return f"{values:.3f}"
    return "  ".join(f"{name} {_text(v)}" for name, v in values.items())


if __name__ == "__main__":
    main()
