"""Denoisers with a memory: what one learns at a step of the grid, it knows at the next.

A memory is a value that the sampler carries from step to step, so that a denoiser stays
a pure function: nothing is hidden in it, and a sample depends on its key alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from score_sde.fields import pytree
from score_sde.samplers.steps import Draw, Interval, Model, Sampler, Step
from score_sde.types import Array, Scalar


class Memory(NamedTuple):
    """A denoiser's memory, as two functions."""

    start: Callable[[Array], Any]
    """x -> the memory before the first step."""
    recall: Callable[..., tuple[Array, Any]]
    """(memory, x, sigma, cond) -> (x0, the memory after this)."""


Recall = Callable[[Any, Array, Scalar], tuple[Array, Any]]
"""(memory, x, sigma) -> (x0, the memory after this), the condition bound."""


@pytree
class Remembering(Sampler):
    """A sampler that carries the memory of its denoiser.

    The memory changes once a step, by the prediction that the step begins with; other
    predictions of that step read what the steps before left.

    Args:
        sampler: the step rule.
        start: x -> the memory before the first step.
        recall: the denoiser with its memory.
    """

    sampler: Sampler
    start: Callable[[Array], Any]
    recall: Recall

    @property
    def num_draws(self) -> int:
        return self.sampler.num_draws

    def init(self, x: Array) -> Any:
        return self.sampler.init(x), self.start(x)

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        del denoise
        inner, memory = state
        denoised, after = self.recall(memory, x, at.sigma)
        calls: list[bool] = []

        def model(x_now: Array, sigma: Scalar) -> Array:
            # The very array that the step was given: its prediction is there already.
            calls.append(x_now is x)
            return denoised if calls[-1] else self.recall(memory, x_now, sigma)[0]

        done = self.sampler.step(model, x, at, draw, inner)
        if not calls[0]:
            raise ValueError(
                f"{self.sampler} begins a step elsewhere than at x, where a denoiser "
                "with a memory has no place to keep it: choose another sampler."
            )
        return done._replace(state=(done.state, after))

    def num_evals(self, sigmas: Array) -> Array:
        return self.sampler.num_evals(sigmas)


def remembering(
    sampler: Sampler, start: Callable[[Array], Any], recall: Recall
) -> Remembering:
    """Make a sampler carry a memory.

    Raises: ValueError for a sampler that does not go step by step over the grid.
    """
    if type(sampler).run is not Sampler.run:
        raise ValueError(
            f"{sampler} has steps of its own, which carry no memory of a denoiser: "
            "choose a sampler that takes the steps of the grid."
        )
    return Remembering(sampler, start, recall)
