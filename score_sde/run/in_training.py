"""Reports of a run while it trains: samples, held-out losses, and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh

from score_sde import conditions
from score_sde.evaluation.plots import save_losses, save_samples
from score_sde.guidance import GUIDANCES
from score_sde.run.build import build
from score_sde.run.by_steps import with_steps
from score_sde.run.evaluate import make_measure
from score_sde.run.experiment import Experiment
from score_sde.run.model import (
    COMPANIONS,
    posterior_points,
    trained_part,
    training_points,
    with_companions,
)
from score_sde.run.sample import make_draw, sample_keys
from score_sde.runtime.folder import Arrays
from score_sde.runtime.jobs import BY_EXAMPLE, EVERYWHERE, map_examples
from score_sde.runtime.mesh import divisible, is_main_host, local_mesh, to_host
from score_sde.training.step import NO_COMPANIONS, LossFn, StepContext, TrainState
from score_sde.types import Array, Key, Params, UserError

EVALUATED, NUM_LEVELS = 128, 12
"""Held-out examples whose loss is followed in training, at how many noise levels."""

Rows = dict[str, Any]

Evaluate = Callable[[TrainState], dict[str, float]]
Look = Callable[[Params, int, Path], dict[str, float]]
"""(averaged parameters, step, folder for pictures) -> metrics."""
Measure = Callable[[Params], dict[str, float]]
"""averaged parameters -> metrics of samples."""
Drawing = tuple[int, Callable[[Params, int], Arrays]]
"""How many samples are drawn at once, and (parameters, number of the first) -> them."""


def make_evaluate(
    experiment: Experiment,
    config: Mapping[str, Any],
    workdir: Path,
    mesh: Mesh,
    loss: LossFn,
    companions: Mapping[str, Params] = NO_COMPANIONS,
) -> Evaluate:
    """Make the function that draws samples and scores held-out examples in training.

    A picture of each goes to workdir/samples; the mean loss is returned, and the
    metrics of as many samples as `evaluation.in_training` says. Every host must call
    it, the first does the work.

    Args:
        experiment: that is trained.
        config: the complete config.
        workdir: its folder.
        mesh: on which the state lies.
        loss: of a batch; its mean is what is said of an objective without noise levels.
        companions: role -> the parameters of other runs.

    Raises: UserError for metrics that can't be made of what this run trains.
    """
    here, objective = local_mesh(), experiment.objective
    held_out = experiment.dataset.test
    count = divisible(min(EVALUATED, len(held_out)), here)
    rows = held_out[np.arange(count) % len(held_out)]
    keys = sample_keys(experiment.seed, 0, count)
    looks, metrics = _looks_at_samples(experiment, config, here)
    if objective.has_levels:
        looks.append(_look_at_levels(experiment, here, keys, rows))
    else:
        looks.append(_look_at_loss(loss, keys[0], rows, companions))
    stds = experiment.train.power_ema_stds if metrics else ()

    def evaluate(state: TrainState) -> dict[str, float]:
        def whole(average: Params) -> Params:
            return with_companions(to_host(average, mesh), companions)

        step, folder = int(state.step), workdir / "samples"
        params, others = whole(state.ema_params), map(whole, state.power_emas)
        found: dict[str, float] = {}
        averages = dict(zip(stds, others, strict=False))  # on every host
        if is_main_host():
            for look in looks:
                found |= look(params, step, folder)
            if metrics:
                found |= metrics(params)
                for std, average in averages.items():
                    values = metrics(average).items()
                    found |= {f"ema_{std:g}.{name}": value for name, value in values}
        return found

    return evaluate


def _looks_at_samples(
    experiment: Experiment, config: Mapping[str, Any], here: Mesh
) -> tuple[list[Look], Measure | None]:
    """The picture of samples and, if they are asked for, their metrics.

    Raises: UserError for metrics of an objective that draws no samples.
    """
    wanted, objective = experiment.evaluation.in_training, experiment.objective
    if objective.trains_denoiser or objective.trains_jumps:
        drawing = _make_draw(experiment, here)
        looks = [_look_at_samples(experiment, drawing)]
        if not wanted:
            return looks, None
        return looks, _look_at_metrics(experiment, config, here, drawing)
    if wanted:
        raise UserError(
            f"evaluation.in_training is {wanted}; objective "
            f"{config['objective']['name']!r} trains nothing that draws samples."
        )
    return [], None


def _look_at_samples(experiment: Experiment, drawing: Drawing) -> Look:
    """Draw the model's own samples."""
    _, draw = drawing

    def look(params: Params, step: int, folder: Path) -> dict[str, float]:
        shown, path = draw(params, 0)["levels"], folder / f"step_{step:07d}.png"
        save_samples(path, shown, num_levels=experiment.shown.num_levels)
        return {}

    return look


def _look_at_metrics(
    experiment: Experiment, config: Mapping[str, Any], here: Mesh, drawing: Drawing
) -> Measure:
    """Measure the model's own samples, at each of the numbers of steps.

    Raises: UserError for what a metric refuses, since training must not end for it
        later.
    """
    size, draw = drawing
    number, held_out = experiment.evaluation.in_training, experiment.shown.test
    measure = make_measure(experiment, config)
    measure(held_out[np.arange(number) % len(held_out)]["values"])
    draws = {"": draw}
    for count in experiment.evaluation.step_counts:
        other = build(with_steps(config, count))
        draws[f"{count}_steps."] = _make_draw(other, here)[1]

    def look(params: Params) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, batch in draws.items():
            drawn = [batch(params, first) for first in range(0, number, size)]
            samples, good = (
                np.concatenate([part[entry] for part in drawn])[:number]
                for entry in ("levels", "success")
            )
            failed = {"failed_samples": float((~good).sum())}
            values = measure(samples) if good.all() else failed
            found |= {f"{name}{metric}": value for metric, value in values.items()}
        return found

    return look


def _make_draw(experiment: Experiment, here: Mesh) -> Drawing:
    """How samples are drawn in training: guidance needs another model."""
    alone = experiment.drawing._replace(guidance=GUIDANCES["none"], roles=())
    return make_draw(experiment._replace(drawing=alone), here)


def _look_at_levels(experiment: Experiment, here: Mesh, keys: Key, rows: Rows) -> Look:
    """Compute the loss of held-out examples by noise level."""
    model, objective = experiment.model, experiment.objective
    cond = conditions.of_examples(model.conditions, rows)

    stored = {name: rows[name] for name in ("values", "std") if name in rows}

    def losses(params: Params, keys: Key, rows: Rows, cond: Any) -> Array:
        points = training_points(model, keys, params, rows["values"])
        folded = jax.vmap(lambda key: jr.fold_in(key, 3))(keys)
        points, cond = trained_part(model, folded, points, rows["values"], cond)
        folded = jax.vmap(lambda key: jr.fold_in(key, 2))(keys)
        x0 = posterior_points(folded, points.x, rows)
        return objective.loss_by_level(
            model, params, keys, x0, cond, num_levels=NUM_LEVELS
        )

    by_level = map_examples(losses, here, EVERYWHERE, *[BY_EXAMPLE] * 3)

    def look(params: Params, step: int, folder: Path) -> dict[str, float]:
        found = np.asarray(by_level(params, keys, stored, cond)).mean(0)
        sigmas = np.asarray(objective.middle_levels(NUM_LEVELS))
        save_losses(folder / f"loss_{step:07d}.png", sigmas, found)
        return {"test_loss": float(found.mean())}

    return look


def _look_at_loss(
    loss: LossFn, key: Key, rows: Rows, companions: Mapping[str, Params]
) -> Look:
    """Compute the objective's mean loss of held-out examples."""
    compiled = jax.jit(loss)

    def look(params: Params, step: int, folder: Path) -> dict[str, float]:
        del folder
        own = {name: p for name, p in params.items() if name != COMPANIONS}
        # The average stands in for the target that follows the parameters.
        now = jnp.asarray(step, jnp.int32)
        context = StepContext(now, own, dict(companions), own)
        return {"test_loss": float(compiled(key, own, rows, context).mean())}

    return look
