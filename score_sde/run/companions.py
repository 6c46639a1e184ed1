"""Other runs that a run uses, by role: one way to load them, for all that use any."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from score_sde import conditions
from score_sde.run.build import build
from score_sde.run.experiment import EARLIER, Experiment
from score_sde.run.model import with_companions
from score_sde.run.sections import complete
from score_sde.run.settings import Companion
from score_sde.run.train import initial_params
from score_sde.runtime.folder import read_config
from score_sde.training.restore import restored_average
from score_sde.types import Params, UserError


class Loaded(NamedTuple):
    """The companions of a run, ready to be used."""

    params: Mapping[str, Params]
    """Role -> its averaged parameters."""
    offers: Mapping[str, Callable[[Params], Any]]
    """Role -> what it offers, as a function of its parameters."""
    made_by: Mapping[str, Any]
    """Role -> the run, its step and the checksum of its parameters."""


NOTHING = Loaded({}, {}, {})


def load(experiment: Experiment, roles: Iterable[str]) -> Loaded:
    """Load the companions with these roles; the devices must have been started.

    Args:
        experiment: the run that uses them.
        roles: which are needed; the config was checked to have them.

    Raises:
        UserError: for a folder that is no run, data of another shape, or a checkpoint
            that is not there.
    """
    found = {role: _load(experiment, role) for role in dict.fromkeys(roles)}
    return Loaded(
        {role: params for role, (_, params, _) in found.items()},
        {role: _offer(other) for role, (other, _, _) in found.items()},
        {role: made_by for role, (_, _, made_by) in found.items()},
    )


def expected(experiment: Experiment) -> Loaded:
    """The shapes of the companions that training needs: nothing is restored."""
    params, offers = {}, {}
    for role in experiment.training_roles:
        other = experiment_of(experiment.companions[role], role)
        inner = expected(other)
        own = jax.eval_shape(lambda: initial_params(other, inner.params))  # noqa: B023
        params[role] = with_companions(own, inner.params)
        offers[role] = _offer(other)
    return Loaded(params, offers, {})


def _offer(other: Experiment) -> Callable[[Params], Any]:
    return lambda params: other.objective.offer(other.model, params)


def _load(
    experiment: Experiment, role: str
) -> tuple[Experiment, Params, dict[str, Any]]:
    """(the experiment, its averaged parameters, what it is) of one companion."""
    where: Companion = experiment.companions[role]
    other = experiment_of(where, role)
    _check_alike(experiment, other, role)
    inner = load(other, other.training_roles)
    like = jax.eval_shape(lambda: initial_params(other, inner.params))
    folder = Path(where.run) / "checkpoints"
    step, params, checksum = restored_average(folder, like, step=where.step)
    known = experiment.dataset.made_by.get(role, checksum)
    if known != checksum:
        raise UserError(
            f"companions.{role}: the parameters in {where.run} have the checksum "
            f"{checksum}; the latents were made by those of {known}. Encode the data "
            "anew, or name the run, and its step, that encoded them."
        )
    if inner.params:
        params = with_companions(params, inner.params)
    return other, params, {"run": where.run, "step": step, "checksum": checksum}


def experiment_of(where: Companion, role: str) -> Experiment:
    """Build the experiment of a companion, from the config in its folder.

    Raises:
        UserError: that names the role, if there is none.
    """
    try:
        return build(config_of(where))
    except UserError as error:
        raise UserError(f"companions.{role}: {error}") from None


def config_of(where: Companion) -> dict[str, Any]:
    """The complete config of a companion, with the changes that are stated.

    Raises:
        UserError: for a folder that is no run.
    """
    config = read_config(Path(where.run))
    return complete({**config, **_changed(config, where.changes or {})})


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The sections, or fields, that are named anew, with what they keep of the old."""

    def one(before: Any, after: Any) -> Any:
        both = isinstance(before, Mapping) and isinstance(after, Mapping)
        if not both or after.get("name", before.get("name")) != before.get("name"):
            return after  # another alternative begins at its own defaults
        return {**before, **_changed(before, after)}

    return {name: one(old.get(name), after) for name, after in new.items()}


def earlier_stage_problems(experiment: Experiment) -> list[str]:
    """Why the run of companions.low_resolution is no earlier stage, a text each."""
    where = experiment.companions.get(EARLIER)
    if where is None:
        return []
    told = experiment.model.conditions
    small = conditions.small_picture(told)
    if small is None:
        return [
            f"companions.{EARLIER}: this run is told no small picture: see "
            "conditions.low_resolution and conditions.coarse"
        ]
    problems = [
        f"companions.{EARLIER}: what else samples are told must be stated, since it "
        "can't be that of held-out images: the option samples of a condition"
        for c in told
        if c.small is None and not (c.samples or c.every)
    ]
    try:
        other = experiment_of(where, EARLIER)
    except UserError as error:
        return [*problems, str(error).rstrip(".")]
    if problem := small.problem(other.dataset):
        problems.append(f"companions.{EARLIER}: {where.run}: {problem}")
    if small.stops_at and other.drawing.sampler.jumps:
        problems.append(
            f"companions.{EARLIER}: {where.run} is sampled by jumps, which can't stop "
            "at a level: conditions.low_resolution.truncated must be False"
        )
    return problems


def _check_alike(experiment: Experiment, other: Experiment, role: str) -> None:
    """Raise a UserError if a companion is of other data, or told other things."""
    is_of_images = role in experiment.dataset.made_by
    own = experiment.shown if is_of_images else experiment.dataset
    here, there = experiment.model, other.model
    if (own.shape, own.num_levels) != (there.shape, there.num_levels):
        raise UserError(
            f"companions.{role}: {experiment.companions[role].run} is of data of shape "
            f"{there.shape} with {there.num_levels} levels, this run of shape "
            f"{own.shape} with {own.num_levels}."
        )
    if role in experiment.objective.denoisers and not other.objective.trains_denoiser:
        raise UserError(
            f"companions.{role}: {experiment.companions[role].run} has no denoiser; "
            "the run that it was made from has."
        )
    known = conditions.of_blank(here.conditions, here.row_shape) or {}
    wanted = conditions.of_blank(there.conditions, there.row_shape) or {}
    if wanted.keys() - known.keys():
        raise UserError(
            f"companions.{role}: {experiment.companions[role].run} is told "
            f"{sorted(wanted)}, this run {sorted(known) or 'nothing'}."
        )
