"""The stages of a cascade, one after the other: samples, costs, and likelihoods.

A run with companion `low_resolution` is the last stage of a cascade: that run draws the
small pictures that this one is told, and may itself have an earlier stage. All that is
said of one run is said of a cascade of one stage.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from score_sde import conditions
from score_sde.data import centres
from score_sde.guidance import network_evals
from score_sde.networks.flops import count_flops
from score_sde.run.experiment import EARLIER, Experiment
from score_sde.run.model import network_fn, noise_of_rows
from score_sde.run.open import Run
from score_sde.run.sample import as_stage, make_draw, sampled_model
from score_sde.run.score import Passes
from score_sde.runtime.folder import Arrays
from score_sde.runtime.jobs import compute_in_parts
from score_sde.types import UserError

NUM_COMPARED = 64
"""Examples of two stages that must be pictures of each other."""


class Cost(NamedTuple):
    """The cost of the samples of a stage, on average."""

    run: str
    """The folder of the stage; "" for the run itself."""
    num_evals: float
    """Calls of the denoiser."""
    network_evals_per_eval: tuple[int, int]
    """The fewest and the most evaluations of the network in one call."""
    gflop: float
    """Operations of the network for a sample, in 10^9."""
    seconds: float
    """Of all samples, with compilation."""
    failed: int


def draw_stages(run: Run, folder: Path, mesh: Mesh) -> tuple[Arrays, list[Cost]]:
    """Draw the samples of a run, stage by stage, or read the parts that are done.

    Args:
        run: the last stage, whose config says how many.
        folder: for the files of parts.
        mesh: devices, each of which draws its share.

    Returns:
        The arrays of the last stage, with `earlier_0`, `earlier_1`, ... for what the
        stages before it drew; and the cost of each stage.
    """
    arrays: Arrays = {}
    kept: Arrays = {}
    costs: list[Cost] = []
    success = np.ones(run.experiment.sampling.num_samples, bool)
    folders = [str(r.experiment.companions[EARLIER].run) for r in run.stages[1:]]
    for number, stage in enumerate(run.stages):
        start, is_last = time.monotonic(), stage is run
        following = run.stages[number + 1 : number + 2]
        experiment = as_stage(stage.experiment, *(r.experiment for r in following))
        experiment = experiment._replace(sampling=run.experiment.sampling)
        size, draw = make_draw(
            experiment,
            mesh,
            stage.companions.offers,
            stage=number,
            earlier=arrays or None,
            with_points=not is_last,
        )
        arrays = compute_in_parts(
            folder / ("samples" if is_last else f"stage{number}"),
            count=experiment.sampling.num_samples,
            size=size,
            compute=lambda first, s=stage, d=draw: d(s.params, first),  # type: ignore[misc]
        )
        seconds = time.monotonic() - start
        costs.append(_cost([*folders, ""][number], stage, experiment, arrays, seconds))
        success &= arrays["success"]
        if not is_last:
            kept[f"earlier_{number}"] = arrays["levels"]
    return {**arrays, **kept, "success": success}, costs


def _cost(
    folder: str, stage: Run, experiment: Experiment, arrays: Arrays, seconds: float
) -> Cost:
    drawing, model = experiment.drawing, experiment.model
    offers = stage.companions.offers
    denoise = sampled_model(model, drawing, stage.params, offers)
    evals = np.asarray(network_evals(denoise, drawing.grid()[:-1]))
    calls = float(arrays["num_evals"].mean())
    cond = conditions.of_blank(model.conditions, model.row_shape)
    if model.two_levels:
        cond = {**(cond or {}), "ratio": np.zeros(1, np.float32)}
    x = jax.ShapeDtypeStruct((1, *model.shape), np.float32)
    noise = jax.ShapeDtypeStruct((1,), np.float32)
    flops = count_flops(network_fn(model, stage.params), x, noise, cond)
    return Cost(
        folder,
        calls,
        (int(evals.min()), int(evals.max())),
        calls * float(evals.mean()) * flops / 1e9,
        round(seconds, 1),
        int((~arrays["success"]).sum()),
    )


def in_all_stages(parts: Sequence[Passes], num_dims: int) -> Passes:
    """The passes over a cascade: log-densities of its stages, added for each example.

    With the coarse image told, log p(x) = log p(coarse) + log p(details given coarse);
    with small pictures rounded to levels, the sum is a bound, one term of the sum over
    all small pictures: P(x) >= P(y) P(x given y). Errors are those of the sums, so that
    what stages have in common, such as the points of an example, is not counted twice.

    Args:
        parts: of each stage, over the same examples.
        num_dims: numbers of an image.
    """

    def summed(arrays: Sequence[Arrays]) -> Arrays:
        names = [n for n in ADDED if all(n in a for a in arrays)]
        total = {name: np.sum([a[name] for a in arrays], axis=0) for name in names}
        return total | {"success": np.all([a["success"] for a in arrays], axis=0)}

    bounds = [p.bound for p in parts]
    bound = {n: np.sum([b[n] for b in bounds], axis=0) for n in ("prior", "decoder")}
    # Strata of one stage stand for levels of their own: their sum alone adds up.
    bound["steps"] = np.sum([b["steps"].sum(1, keepdims=True) for b in bounds], axis=0)
    return Passes(
        [summed(same) for same in zip(*(p.repeats for p in parts), strict=True)],
        {n: summed([p.checks[n] for p in parts]) for n in parts[0].checks},
        bound,
        num_dims,
    )


ADDED = ("nats", "num_evals", "seconds", "solver_error")
"""What adds up over the stages of a cascade."""


def scored_stages(run: Run) -> tuple[Experiment, ...]:
    """The experiments of all stages, with as many passes as the last one asks for.

    They have its seed too, so that all parts of an image are of the same point.

    Raises:
        UserError: for stages whose examples do not belong together.
    """
    settings = run.experiment.likelihood
    names = ("repeats", "num_checked", "num_train")
    shared = {name: getattr(settings, name) for name in names}
    if len(run.stages) > 1:
        _check_flows(run.stages)
        _check_points(run.stages)
        check_pictures(run.stages)
    return tuple(
        stage.experiment._replace(
            seed=run.experiment.seed,
            likelihood=dataclasses.replace(stage.experiment.likelihood, **shared),
        )
        for stage in run.stages
    )


def _check_flows(stages: Sequence[Run]) -> None:
    """Refuse a cascade with a stage whose likelihood is not that of its flow.

    Raises:
        UserError: for a student that is scored by its jumps.
    """
    for number, stage in enumerate(stages):
        if stage.experiment.objective.learns_divergence:
            raise UserError(
                f"stage {number} of the cascade is a student, scored by its jumps; the "
                "likelihood of a cascade adds those of flows: name its teacher instead."
            )


def _check_points(stages: Sequence[Run]) -> None:
    """Refuse stages over parts of images that are scored at points of other laws.

    Raises:
        UserError: that names the dequantisation, or the noise, of both.
    """

    def law(stage: Run) -> tuple[str, float]:
        experiment = stage.experiment
        name = experiment.likelihood.dequantisation
        noise = float(noise_of_rows(experiment.model))
        return name, (noise if name == "truncated_normal" else 0.0)

    name, noise = law(stages[-1])
    for number, stage in enumerate(stages[:-1]):
        found, other = law(stage)
        alike = found == name and math.isclose(other, noise, rel_tol=1e-4, abs_tol=0.0)
        if stage.experiment.dataset.part is not None and not alike:
            at = f" with noise {other:.4g}", f" with noise {noise:.4g}"
            raise UserError(
                f"stage {number} of the cascade is scored at {found} points of the "
                f"pixels{at[0] if other else ''}, the last one at {name} points"
                f"{at[1] if noise else ''}; the parts must be of one point: train them "
                "with the same data.points, and with sde.t_min in the ratio of their "
                "noise, which is halved by each step to means over two by two pixels."
            )


def check_pictures(stages: Sequence[Run]) -> None:
    """Refuse stages whose test examples are no small pictures of the next one's.

    Raises:
        UserError: that names the folder of the earlier stage.
    """
    for earlier, later in zip(stages, stages[1:], strict=False):
        one, other = earlier.experiment, later.experiment
        small = conditions.small_picture(other.model.conditions)
        assert small is not None  # the config was refused otherwise
        lengths = len(one.dataset.test), len(other.dataset.test)
        index = np.arange(min(NUM_COMPARED, *lengths))
        told = small.of_drawn(_pictures(one, index))["image"]
        rows = other.dataset.test[index]
        entry: Any = conditions.of_examples(other.model.conditions, rows)
        own = entry["image"]
        if lengths[0] != lengths[1] or not np.allclose(told, own, atol=1e-4):
            raise UserError(
                f"companions.{EARLIER}: the test examples of "
                f"{other.companions[EARLIER].run} are not the small pictures of those "
                "of this run: both must be of the same images, made smaller alike."
            )


def _pictures(experiment: Experiment, index: np.ndarray) -> Any:
    """The pictures that examples are, as a stage draws them."""
    dataset = experiment.dataset
    values = dataset.test[index]["values"]
    x = centres(values, num_levels=dataset.stored.num_levels)
    part = dataset.part
    if part is None:
        return x
    return part.join(part.told(x) if part.told else None, part.take(x))
