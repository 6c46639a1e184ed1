"""Rules between the parts of a config: each says what it needs of the others."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import guidance
from score_sde.editing import restore_by
from score_sde.run.experiment import Experiment
from score_sde.run.tasks import TASKS
from score_sde.samplers import sample
from score_sde.samplers.memory import Memory
from score_sde.types import Array


def _unsuited_drawing(experiment: Experiment, names: Mapping[str, str]) -> list[str]:
    """Why samples of a student of few steps can't be drawn so, a text each."""
    objective, sampler = experiment.objective, experiment.drawing.sampler
    if not objective.trains_jumps:
        return []
    problems = []
    if not (objective.trains_denoiser or sampler.jumps):
        problems.append(
            f"sampler.name is {names['sampler']!r}; objective {names['objective']!r} "
            "trains no denoiser, but jumps: use 'jump' or 'consistency'"
        )
    if sampler.jumps:
        problems += [
            f"{section}.name is {names[section]!r}; it acts on a denoiser, and a "
            "student has learned it or not: use 'none'"
            for section in ("guidance", "threshold")
            if names[section] != "none"
        ]
    return problems


def _unsuited_jumps(experiment: Experiment, names: Mapping[str, str]) -> list[str]:
    """Why a likelihood can't take so many jumps, a text each."""
    objective, count = experiment.objective, experiment.likelihood.num_jumps
    if not count:
        return []
    if not objective.learns_divergence:
        return [
            f"likelihood.num_jumps is {count}; objective {names['objective']!r} learns "
            "no divergence of jumps, as a likelihood in a few of them needs: use "
            "'direct_likelihood' or 'flow_map_likelihood'"
        ]
    most = objective.most_jumps
    if most is not None and count > most:
        return [
            f"likelihood.num_jumps is {count}; the student has learned {most} jumps "
            "from the data to the prior, at most"
        ]
    return []


def _unsuited_part(experiment: Experiment) -> list[str]:
    """Why a part of images can't be trained or scored so, a text each."""
    if experiment.dataset.part is None:
        return []
    points, problems = experiment.data.points, []
    dequantisation = experiment.likelihood.dequantisation
    if dequantisation != DRAWN_AT.get(points, dequantisation):
        problems.append(
            f"likelihood.dequantisation is {dequantisation!r}; a part of images that "
            f"is trained on {points!r} points is scored at {DRAWN_AT[points]!r} ones"
        )
    if experiment.objective.bounds_chain:
        problems.append(
            "objective bounds a chain; a part of images has no levels for its decoder"
        )
    return problems


DRAWN_AT = {"uniform": "uniform", "centres": "truncated_normal"}
"""How parts of images are trained on points -> the points at which they are scored."""


def _unsuited_dropout(experiment: Experiment) -> list[str]:
    """Why training can't leave conditions out, a text each."""
    share, told = experiment.train.condition_dropout, experiment.model.conditions
    if not share:
        return []
    if not told:
        return [
            f"train.condition_dropout is {share}; the network is told nothing: see "
            "section conditions"
        ]
    if all(condition.has_null for condition in told):
        return []
    return [
        f"train.condition_dropout is {share}; the network could not tell a picture "
        "that is left out from a grey one: conditions.low_resolution.is_marked must be "
        "True, and a coarse image is always told"
    ]


def _unsuited_restoration(experiment: Experiment) -> list[str]:
    """Why the method can't restore by this task, or of this noise: it is made once."""
    settings, shape = experiment.editing, experiment.shown.shape
    task = TASKS[settings.task]
    if task.measurement is None or len(shape) != 3:
        return []
    try:
        known = task.measurement(settings, shape, None)
    except ValueError as error:
        return [str(error).rstrip(".")]
    try:
        restore_by(
            experiment.restoration,
            *(lambda x, sigma, cond=None: x, known, np.zeros((1, *shape), np.float32)),
            noise_std=settings.noise_std,
            grid=np.asarray([1.0, 0.0]),
        )
    except ValueError as error:
        return [f"restoration: {str(error).rstrip('.')}"]
    return []


def _unsuited_guidance(experiment: Experiment, names: Mapping[str, str]) -> list[str]:
    """Why the sampler's steps are not those that guidance is made for, a text each."""
    guide, sampler = experiment.drawing.guidance, experiment.drawing.sampler
    about = f"sampler.name is {names['sampler']!r}; guidance {names['guidance']!r}"
    if guidance.needs_euler_steps(guide) and not sampler.is_euler:
        return [
            f"{about} is exact for Euler's steps alone: use 'euler', or 'ddim' with "
            "eta 0"
        ]
    try:
        made = guidance.tried(guide)
    except ValueError:  # its own options are wrong, which has been said
        return []
    if getattr(made, "memory", None) is None or sampler.jumps:
        return []
    learned = Memory(jnp.zeros_like, lambda known, x, sigma, cond: (x, known))
    model = guidance.Guided(lambda x, sigma, cond=None: x, jnp.ones_like, learned)
    ready = sampler.bind(variance=lambda x, sigma: x)

    def drawn() -> Array:  # traced, so that nothing is computed
        x, sigmas = jnp.ones((1, 2, 2, 1)), jnp.asarray([2.0, 1.0, 0.0])
        return sample(ready, model, x, sigmas, key=jax.random.key(0)).x

    try:
        jax.eval_shape(drawn)
    except ValueError as error:
        return [f"{about} remembers the step before: {str(error).rstrip('.')}"]
    return []


def disagreements(experiment: Experiment, names: Mapping[str, str]) -> list[str]:
    """Rules between parts: each says what it needs of the others."""
    model, drawing, train = experiment.model, experiment.drawing, experiment.train
    objective, companions = experiment.objective, experiment.companions
    problems = [
        f"objective.name is {names['objective']!r}: {text}"
        for text in objective.problems(model)
    ]
    if model.network.parts is not None and objective.trains_denoiser:
        problems.append(
            f"network.name is {names['network']!r}, an autoencoder; objective.name "
            "'autoencoder' trains it"
        )
    if objective.needs_whole_batch and experiment.devices.accumulate > 1:
        problems.append(
            f"devices.accumulate is {experiment.devices.accumulate}; the objective "
            "needs the whole batch at once"
        )
    problems += [f"editing.{text}" for text in experiment.editing.problems(model.shape)]
    problems += _unsuited_restoration(experiment)
    problems += _unsuited_guidance(experiment, names)
    problems += [
        f"likelihood.{text}" for text in experiment.likelihood.problems(model.points)
    ]
    problems += _unsuited_part(experiment)
    problems += _unsuited_drawing(experiment, names)
    problems += _unsuited_jumps(experiment, names)
    if "variance" in drawing.sampler.wants and not model.predicts_variance:
        problems.append(
            "sampler.variance is 'learned'; it needs a network that predicts "
            "variances: network.learn_sigma True, of a network that has it"
        )
    users = {
        **dict.fromkeys(objective.companions, "objective"),
        **dict.fromkeys(model.network.companions, "network"),
        **dict.fromkeys(drawing.roles, "guidance"),
        **dict.fromkeys(experiment.dataset.made_by, "data"),
    }
    problems += [
        f"{user}.name is {names[user]!r}; it needs another run: "
        f"--config.companions.{role}.run=FOLDER"
        for role, user in users.items()
        if role not in companions
    ]
    problems += _unsuited_dropout(experiment)
    optimizer = experiment.optimizer
    if optimizer.warmup_steps >= train.num_steps // optimizer.cycles:
        problems.append(
            f"optimizer.warmup_steps is {optimizer.warmup_steps}; it must be below "
            f"train.num_steps, {train.num_steps}"
            + f", over {optimizer.cycles} cycles"
            * (optimizer.cycles > 1)
        )
    return problems
