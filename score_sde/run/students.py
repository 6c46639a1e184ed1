"""Objectives of few-step models: what they share, and learning from a teacher's steps.

A student is the network of a denoiser, trained further so that few jumps take the place
of many steps (`flow_map`). Its teacher is the companion of that role.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY
from functools import partial
from typing import Annotated, Any, ClassVar

import jax
import jax.random as jr

from score_sde import conditions
from score_sde.arrays import example_keys, per_example
from score_sde.conditions import GUIDANCE
from score_sde.fields import settings
from score_sde.flow_map import FlowMap, as_denoiser
from score_sde.guidance import classifier_free
from score_sde.losses import DISTANCES
from score_sde.losses.consistency import Distance
from score_sde.losses.pairs import Ladder
from score_sde.networks.blocks import DIVERGENCE, GUIDANCE_WEIGHT, SECOND_LEVEL
from score_sde.rules import Finite, one_of
from score_sde.run.model import COMPANIONS, Model, jump
from score_sde.run.objective import Context, Objective
from score_sde.sde import SDE
from score_sde.types import Array, Denoise, Key, Params, Scalar, UserError

TEACHER = "teacher"
STARTS = ("teacher", "scratch")


@settings
class Student(Objective):
    """Base of the objectives of few-step models.

    Attributes:
        start_from: where the network starts: 'teacher', from the averaged parameters of
            that companion, or 'scratch'.
        guidance_weight: of classifier-free guidance of the teacher, which the student
            then has learned; 1 for none.
        dropout: whether the network's dropout acts, which helps against few data.
    """

    _: KW_ONLY
    start_from: Annotated[str, one_of(STARTS)] = "teacher"
    guidance_weight: Annotated[float, Finite] = 1.0
    dropout: bool = False

    trains_denoiser: ClassVar[bool] = False
    trains_jumps: ClassVar[bool] = True

    @property
    def distils(self) -> bool:
        """Whether the loss uses the teacher."""
        return True

    @property
    def companions(self) -> tuple[str, ...]:  # type: ignore[override]
        return (TEACHER,) if self.distils or self.start_from == "teacher" else ()

    @property
    def denoisers(self) -> tuple[str, ...]:  # type: ignore[override]
        return (TEACHER,) if self.distils else ()

    def problems(self, model: Model) -> list[str]:
        found = []
        if self.guidance_weight != 1 and not self.distils:
            found.append("guidance_weight is of the teacher, which it does not use")
        told = conditions.of_blank(model.conditions, model.row_shape) or {}
        is_told = GUIDANCE in told
        if (is_told or self.guidance_weight != 1) and not told.keys() - {GUIDANCE}:
            found.append(
                "guidance_weight needs a network that is told something: see section "
                "conditions"
            )
        if is_told and self.guidance_weight != 1:
            found.append(
                f"guidance_weight is {self.guidance_weight}; the weights are those of "
                "conditions.guidance_weight"
            )
        if is_told and not self.distils:
            found.append("conditions.guidance_weight is of a teacher, which it lacks")
        if model.points == "variational":
            found.append("data.points is 'variational', which is for likelihoods")
        return found

    def start(self, params: Params, companions: Mapping[str, Params]) -> Params:
        if self.start_from == "scratch":
            return params
        return started(params, companions[TEACHER]["network"])

    def jump(self, params: Params, context: Context) -> FlowMap:
        """The student with these parameters, in training."""
        key = context.dropout_key if self.dropout else None
        return jump(context.model, params, dropout_key=key)

    def teacher(self, context: Context) -> Denoise:
        """The teacher's denoiser, guided as the student is to be."""
        return self._guided(context.companions[TEACHER])

    def _guided(self, offered: Denoise) -> Denoise:
        denoise, stated = as_denoiser(offered), self.guidance_weight

        def guided(x: Array, sigma: Scalar, cond: Any = None) -> Array:
            told = dict(cond or {})
            if GUIDANCE not in told and stated == 1:
                return denoise(x, sigma, cond)
            weight = told.pop(GUIDANCE, stated)
            return classifier_free(denoise, weight)(x, sigma, told)

        return guided

    def flow(
        self,
        model: Model,
        params: Params,
        offers: Mapping[str, Callable[[Params], Any]],
    ) -> Denoise:
        if not self.distils or not self.learns_divergence:
            return super().flow(model, params, offers)
        return self._guided(offers[TEACHER](params[COMPANIONS][TEACHER]))


def started(params: Params, others: Params) -> Params:
    """Parameters of a student that begin as its teacher's.

    What the teacher lacks, the embeddings of where a jump ends and of its own guidance
    and the divergence of a jump, stays as it is: it adds nothing yet, so that the
    student is its teacher.

    Raises: UserError where the two networks are not alike.
    """
    theirs = dict(jax.tree_util.tree_leaves_with_path(others))
    used = set()

    def one(path: Any, own: Any) -> Any:
        found = theirs.get(path)
        names = {getattr(entry, "key", None) for entry in path}
        if found is None and names & {SECOND_LEVEL, GUIDANCE_WEIGHT, DIVERGENCE}:
            return own
        if found is None or found.shape != own.shape:
            shape = "none" if found is None else f"one of shape {found.shape}"
            raise UserError(
                "objective.start_from is 'teacher'; that needs the teacher's network: "
                f"parameter {jax.tree_util.keystr(path)} has shape {own.shape} here, "
                f"and the teacher has {shape}. Use its section network, or 'scratch'."
            )
        used.add(path)
        return own if isinstance(found, jax.ShapeDtypeStruct) else found

    made = jax.tree_util.tree_map_with_path(one, params)
    if left := theirs.keys() - used:
        raise UserError(
            "objective.start_from is 'teacher'; that needs the teacher's network, which"
            f" has {jax.tree_util.keystr(min(left, key=str))} beside what is here."
        )
    return made


def noise_like(key: Key, x0: Array) -> Array:
    """Standard normal noise, that of each example a function of (key, example)."""
    return per_example(jr.normal, example_keys(key, len(x0)), x0)


def uniform_like(key: Key, x0: Array) -> Array:
    """Uniform numbers, [batch], that of each example a function of (key, example)."""
    keys = example_keys(key, len(x0))
    return jax.vmap(lambda key: jr.uniform(key, (), x0.dtype))(keys)


def distance_of(name: str, c: float) -> Distance:
    """The distance of this name; c is for 'pseudo_huber'."""
    distance = DISTANCES[name]
    return partial(distance, c=c) if name == "pseudo_huber" else distance


def ladder_of(sde: SDE, rho: float = 7.0) -> Ladder:
    """The levels between the ends of an SDE."""
    with jax.ensure_compile_time_eval():
        low, high = (float(sde.sigma(t)) for t in (sde.t_min, sde.t_max))
    return Ladder(low, high, rho)
