"""From a config to an experiment: whatever is wrong is found here and said at once.

No device is touched. `making` makes the parts; here they are joined, and each is asked
whether the others suit it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from score_sde import conditions, guidance
from score_sde.conditions import Condition
from score_sde.data import Part
from score_sde.fields import fields_of
from score_sde.flow_map import FlowMap
from score_sde.networks import (
    NETWORKS,
    Network,
    as_network,
    over_pixels,
    predicts_variance,
    problems_of,
    reads,
    with_companions,
    with_image,
)
from score_sde.networks.blocks import DIVERGENCE
from score_sde.run.agreement import disagreements
from score_sde.run.experiment import EARLIER, OFFERED_BY_RUN, Drawing, Experiment
from score_sde.run.latents import decoded_by_companion
from score_sde.run.making import Maker
from score_sde.run.model import Model
from score_sde.run.objective import Objective, as_objective
from score_sde.run.sections import PLAIN, SECTIONS
from score_sde.run.waves import network_told_noise
from score_sde.sde import SDE
from score_sde.types import Array, UserError, choices_text


class ConfigError(UserError):
    """All that is wrong with a config, a line each."""

    def __init__(self, problems: list[str]):
        plural = "s" if len(problems) > 1 else ""
        super().__init__(
            "\n  ".join([f"{len(problems)} problem{plural} in the config:", *problems])
        )
        self.problems = problems


def build(config: Mapping[str, Any]) -> Experiment:
    """Make the experiment that a config describes.

    Args:
        config: a dict of sections of literals.

    Raises:
        ConfigError: with all problems: section, field, value, rule or choices.
    """
    maker = Maker(config)
    problems = [
        f"{name}: no such section{choices_text(name, {*PLAIN, *SECTIONS})}"
        for name in config
        if name not in {*PLAIN, *SECTIONS}
    ]
    seed = config.get("seed")
    if type(seed) is not int or not 0 <= seed < 2**32:
        problems.append(f"seed: must be an integer from 0 to 2^32 - 1, got {seed!r}")
    if not isinstance(config.get("extra", {}), Mapping):
        problems.append(f"extra is {config['extra']!r}; it must be a dict of notes")
    made = maker.all()
    problems += maker.problems
    if problems:
        raise ConfigError(problems)
    names = {
        section: content["name"]
        for section, content in maker.config.items()
        if section in SECTIONS and "name" in content and SECTIONS[section].registry
    }
    made["network_roles"] = maker.network_roles
    experiment, problems = _joined(made, names, maker.given["sigma_data"], seed)
    if problems:
        raise ConfigError(problems)
    return experiment


def network_module(config: Mapping[str, Any]) -> Any:
    """The module, or the `Network`, that the section `network` names.

    Raises:
        ConfigError: if the parts of the config can't be made.
    """
    maker = Maker(config)
    made = maker.all()
    if maker.problems:
        raise ConfigError(maker.problems)
    return made["network"]


def _joined(
    made: Mapping[str, Any], names: Mapping[str, str], sigma_data: float, seed: Any
) -> tuple[Experiment, list[str]]:
    """The experiment of parts that are well made, and why they don't suit each other.

    Args:
        made: the part of each section.
        names: the name that each section has chosen, for the problems.
        sigma_data: measured, or stated.
        seed: of the config.
    """
    data, dataset = made["data"]
    told, module = tuple(made["conditions"].values()), made["network"]
    objective = as_objective(made["objective"])
    network, problems = _network(made, names["network"], told, objective)
    if made["network_roles"]:
        network = with_companions(network, module, made["network_roles"])
    model = Model(
        shape=dataset.shape,
        num_levels=dataset.stored.num_levels,
        num_labels=dataset.num_classes,
        sigma_data=sigma_data,
        points=data.points,
        sde=made["sde"],
        network=network,
        predicts_variance=predicts_variance(module),
        precondition=made["precondition"],
        conditions=told,
        chain=made["chain"].levels,
        shown_levels=dataset.shown.num_levels,
        two_levels=objective.two_levels,
        learns_divergence=objective.learns_divergence,
        reach=objective.reach,
        part=dataset.part,
        row_shape=dataset.stored.shape,
    )
    if dataset.part is not None:
        model = model._replace(render=partial(_joined_part, dataset.part))
    if dataset.made_by:
        model, found = decoded_by_companion(
            model, dataset, made["companions"], made["sampling"].decode_tile
        )
        problems += found
    drawing, found = _drawing(made, model)
    experiment = Experiment(
        seed=seed,
        dataset=dataset,
        data=data,
        model=model,
        objective=objective,
        drawing=drawing,
        **{name: made[name] for name in AS_THEY_ARE},
    )
    problems += found + disagreements(experiment, names)
    return experiment, problems or _unsuited_earlier(experiment)


def _unsuited_earlier(experiment: Experiment) -> list[str]:
    """Why the run before this stage of a cascade is none, a text each."""
    if EARLIER not in experiment.companions:
        return []
    from score_sde.run.companions import earlier_stage_problems

    return earlier_stage_problems(experiment)


def _joined_part(part: Part, params: Any, x: Array, cond: Any) -> Array:
    """The picture that a part of it makes with the one that it was drawn beside."""
    del params
    return part.join(cond["image"] if part.told else None, x)


AS_THEY_ARE = (
    *("optimizer", "train", "devices"),
    *("sampling", "likelihood", "editing", "restoration", "companions"),
    *("features", "metrics", "evaluation"),
)
"""Sections whose settings the experiment has as they are."""


def _network(
    made: Mapping[str, Any],
    name: str,
    told: tuple[Condition, ...],
    objective: Objective,
) -> tuple[Network, list[str]]:
    """The network for the data, which sees a picture beside its input if told one."""
    (_, dataset), module = made["data"], made["network"]
    shape, known = dataset.shape, reads(module)
    cond = conditions.of_blank(told, dataset.stored.shape)
    asked = asked_of_jumps(objective)
    cond = {**(cond or {}), **asked} or None
    sees_image = "image" in (cond or {}) and not (known and "image" in known)
    of_details = dataset.part is not None and dataset.part.told is not None
    if sees_image and of_details:
        height, width, channels = shape
        shape = (2 * height, 2 * width, channels // 3)
    options = fields_of(type(module))
    problems = [
        f"network{'.' if text.split()[0] in options else ': '}{text}"
        for text in problems_of(module, shape)
    ]
    problems += [
        f"network.name is {name!r}; it can't be told {entry!r}, but "
        f"{sorted(known or ()) or 'nothing'}: see section conditions"
        for entry in cond or {}
        if entry not in ("image", *asked) and known is not None and entry not in known
    ]
    if known is not None and not asked.keys() <= known:
        missing = min(asked.keys() - known)
        able = [n for n, kind in NETWORKS.items() if missing in (reads(kind) or ())]
        problems.append(
            f"network.name is {name!r}; objective needs a network that "
            f"{NEEDED_OF_JUMPS[missing]}, cond[{missing!r}], such as {able}"
        )
        told_once = conditions.of_blank(told, dataset.stored.shape)
        return as_network(module, shape, told_once), problems
    precondition, sde = made["precondition"], made["sde"]
    joined = partial(network_told_noise, module, precondition, sde)
    if not sees_image or cond is None:
        return joined(shape, cond), problems
    if predicts_variance(module):
        problems.append(
            "conditions.image is for networks that predict no variances: set "
            "network.learn_sigma False"
        )
    channels = shape[-1] + cond.pop("image").shape[-1]
    # Of the four parts of a pixel three have noise: all but the mean that is told.
    share = 0.75**0.5 if of_details else 1.0
    network = with_image(joined((*shape[:-1], channels), cond or None, share=share))
    if of_details:
        network = over_pixels(
            network,
            side=dataset.stored.shape[0] // dataset.shape[0],
            scale=lambda: precondition(sde.sigma(sde.t_min)).in_,
        )
    return network, problems


NEEDED_OF_JUMPS = {
    "ratio": "is told where a jump ends",
    DIVERGENCE: "gives the divergence of a jump",
}
"""Entry of a condition -> what a network must do to be of use for jumps."""


def asked_of_jumps(objective: Objective) -> dict[str, Any]:
    """The entries of a condition by which an objective asks a network for jumps."""
    asked: dict[str, Any] = {}
    if objective.two_levels:
        asked["ratio"] = np.zeros(1, np.float32)
    if objective.learns_divergence:
        asked[DIVERGENCE] = None
    return asked


def _drawing(made: Mapping[str, Any], model: Model) -> tuple[Drawing, list[str]]:
    """How samples are drawn; what its parts refuse shows when they are made once."""
    guide, threshold, problems = made["guidance"], made["threshold"], []
    grid, ends = made["grid"], _unstated_ends(made["grid"], model.sde)
    trials: dict[str, Callable[[], Any]] = {
        "guidance": lambda: guidance.bind(guide),
        "threshold": lambda: guidance.bind(threshold),
        "grid": lambda: jax.eval_shape(  # no number is computed
            lambda: grid(**{name: model.sde.sigma(t) for name, t in ends.items()})
        ),
    }
    for section, trial in trials.items():
        try:
            trial()
        except ValueError as error:
            problems.append(f"{section}: {str(error).rstrip('.')}")
    problems += _unstated(guide, model)
    needed = guidance.models_needed(guide)
    own = tuple(name for name in needed if name in OFFERED_BY_RUN)
    roles = tuple(name for name in needed if name not in OFFERED_BY_RUN)
    between = grid_between(grid, model.sde)
    drawing = Drawing(made["sampler"], between, guide, roles, threshold, own)
    return drawing, problems


def _unstated(guide: Callable[..., Any], model: Model) -> list[str]:
    """Why guidance can't have the conditions that it needs, a text each."""
    needed = guidance.condition_needed(guide)
    if needed is None:
        return []
    by_entry = {
        entry: condition
        for condition in model.conditions
        for entry in conditions.of_blank([condition], model.row_shape) or ()
    }
    if not by_entry:
        return [
            "guidance needs a network that is told something: see section conditions"
        ]
    problems = [
        f"guidance needs a network that is told {entry!r}, and it is told "
        f"{sorted(by_entry)}: see section conditions"
        for entry in needed
        if entry not in by_entry
    ]
    for option, entry, value in guidance.values_stated(guide):
        if entry in by_entry:
            try:
                by_entry[entry].state(value)
            except ValueError as error:
                problems.append(f"guidance.{option}: {str(error).rstrip('.')}")
    return problems


def grid_between(grid: Callable[..., Array], sde: SDE) -> Callable[[], Array]:
    """The grid whose ends, unless they are stated, are those of the SDE."""
    left = _unstated_ends(grid, sde)

    def whole() -> Array:
        with jax.ensure_compile_time_eval():  # numbers, so that they can be checked
            ends = {name: sde.sigma(t) for name, t in left.items()}
            return grid(**ends)

    return whole


def check_grid(experiment: Experiment) -> None:
    """Make the grid once, when devices may be used.

    Raises:
        ConfigError: if the SDE's ends and those that the config states disagree.
    """
    drawing, model = experiment.drawing, experiment.model
    try:
        sigmas = drawing.grid()
        drawing.sampler.check_model(FlowMap(_never_called, model.reach()), sigmas)
    except ValueError as error:
        raise ConfigError([f"grid: {str(error).rstrip('.')}"]) from None


def _never_called(*args: Any) -> Array:
    raise AssertionError(args)


def _unstated_ends(grid: Callable[..., Array], sde: SDE) -> dict[str, Any]:
    """The ends that a grid wants and its section does not state -> time of the SDE."""
    ends = {"sigma_min": sde.t_min, "sigma_max": sde.t_max}
    stated = getattr(grid, "keywords", {})
    wanted = fields_of(grid.func) if isinstance(grid, partial) else {}
    return {k: t for k, t in ends.items() if k in wanted and k not in stated}
