"""Samplers: rules for one step from a noise level to the next.

All steps are taken in x = xt / alpha, whose noise has standard deviation sigma, so
that the probability flow of every SDE is dx/dsigma = (x - D(x, sigma)) / sigma.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import jax
import jax.numpy as jnp

from score_sde.fields import pytree
from score_sde.types import Array, Scalar

Model = Callable[..., Array]
"""(x, sigma) -> x0, the denoiser with its condition bound; for a sampler that jumps,
(x, sigma, sigma_next) -> G."""


@runtime_checkable
class Draw(Protocol):
    """Draw the k-th standard normal noise of whoever calls, shaped like x.

    It is for a move from one level to the other: independent draws look at k alone, a
    Brownian path at the levels. Draw k may pass a level where draw k - 1 ended (`via`):
    the two are then correlated, as overlapping parts of one path are. k and the levels
    are scalars or [batch].
    """

    def __call__(
        self, k: Scalar, sigma: Scalar, sigma_next: Scalar, via: Scalar | None = None, /
    ) -> Array: ...


class Interval(NamedTuple):
    """One step of the grid, and its place there."""

    sigmas: Array
    """The whole grid, num_steps + 1 levels."""
    number: Array
    """The number of the step, from 0."""

    @property
    def sigma(self) -> Array:
        """The level where the step begins."""
        return self.sigmas[self.number]

    @property
    def sigma_next(self) -> Array:
        """The level where the step ends."""
        return self.sigmas[self.number + 1]

    @property
    def num_steps(self) -> int:
        """The number of steps of the grid."""
        return len(self.sigmas) - 1


class Step(NamedTuple):
    """Result of one step of the grid."""

    x: Array
    """x at the next noise level."""
    denoised: Array
    """The prediction of x0 that the step began with."""
    state: Any = ()
    """State for the next step beside x, such as the history of a multistep method."""


class SampleResult(NamedTuple):
    """The sample, and what it cost."""

    x: Array
    """[batch, *dims], at the last noise level."""
    num_evals: Array
    """Calls of the denoiser, on the whole batch; [batch] if every example has its own
    number."""
    path: Array | None = None
    """[num_steps + 1, batch, *dims], the start included, if it was asked for."""
    denoised: Array | None = None
    """[num_steps, batch, *dims]: the prediction of x0 that each step began with."""
    num_accepted: Array | None = None
    """Steps that an adaptive sampler took, [batch]."""
    num_rejected: Array | None = None
    """Steps that it took back, [batch]."""
    success: Array | None = None
    """False where an adaptive sampler gave up, so that x is NaN, [batch]."""

    def of_type(self, dtype: Any) -> SampleResult:
        """The result with data of this type."""

        def typed(a: Array | None) -> Array | None:
            return None if a is None else a.astype(dtype)

        path, denoised = typed(self.path), typed(self.denoised)
        return self._replace(x=self.x.astype(dtype), path=path, denoised=denoised)


@pytree
class Sampler:
    """A step rule. Its options are the fields of a subclass."""

    needs_path: ClassVar[bool] = False
    """True if draws must be of one path, since they decide the steps."""
    jumps: ClassVar[bool] = False
    """True if `step` is given a jump, (x, sigma, sigma_next) -> G, for a denoiser."""

    def check_model(self, model: Any, sigmas: Any) -> None:
        """Refuse a model that can't take the steps of a grid.

        Args:
            model: a denoiser or a jump.
            sigmas: the grid.

        Raises: ValueError.
        """
        del model, sigmas

    @property
    def wants(self) -> tuple[str, ...]:
        """Names of what must be bound by `bind` before the sampler can draw.

        "variance" is a function (x, sigma) -> v, the variances that a network
        predicts; see `ddpm.Interpolation`.
        """
        return ()

    def bind(self, **offers: Any) -> Self:
        """Return the sampler with those of the offers bound that it wants.

        Args:
            offers: values by the names of `wants`; others are ignored.
        """
        del offers
        return self

    @property
    def num_draws(self) -> int:
        """The number of times that a step may draw noise."""
        return 0

    @property
    def stochastic(self) -> bool:
        """True if any step draws noise."""
        return self.num_draws > 0

    @property
    def follows_path(self) -> bool:
        """True if a run passes every level once, so that a Brownian path is its noise.

        Along one path a second draw for the same levels would be the first one again.
        """
        return True

    @property
    def is_euler(self) -> bool:
        """True if each step is x + (sigma_next / sigma - 1) (x - D(x, sigma)).

        Guidance that is exact for such steps alone asks for it.
        """
        return False

    def draws_needed(self, num_steps: int, *, to_zero: bool) -> int | None:
        """Count the draws of a run, or None where the run itself decides it.

        Args:
            num_steps: the number of steps of the grid.
            to_zero: whether the last level is 0: the step there takes no noise.
        """
        return self.num_draws * (num_steps - to_zero)

    def init(self, x: Array) -> Any:
        """The state before the first step, of the shapes that `step` returns."""
        del x
        return ()

    def step(
        self, denoise: Model, x: Array, at: Interval, draw: Draw, state: Any
    ) -> Step:
        """Carry x from at.sigma to at.sigma_next. A class with its own `run` has none.

        Args:
            denoise: (x, sigma) -> x0.
            x: [batch, *dims], at level at.sigma.
            at: the step.
            draw: standard normal noise, draw 0 the first of this step.
            state: as `init` or the step before left it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no step.")

    def num_evals(self, sigmas: Array) -> Array:
        """Count the calls of the denoiser over a grid: here one a step."""
        return jnp.asarray(len(sigmas) - 1)

    def run(
        self,
        denoise: Model,
        x: Array,
        sigmas: Array,
        draw: Draw,
        *,
        return_path: bool,
    ) -> SampleResult:
        """Fold `step` over the grid, by one scan.

        Args:
            denoise: (x, sigma) -> x0.
            x: [batch, *dims], at level sigmas[0].
            sigmas: the grid, [num_steps + 1], decreasing.
            draw: standard normal noise, counted over the whole grid.
            return_path: also return x at every level and each prediction of x0.
        """

        def body(carry: tuple[Array, Any], number: Array) -> Any:
            x, state = carry

            def draw_now(k: Scalar, *levels: Any) -> Array:
                return draw(number * self.num_draws + k, *levels)

            done = self.step(denoise, x, Interval(sigmas, number), draw_now, state)
            kept = (done.x, done.denoised) if return_path else None
            return (done.x, done.state), kept

        steps = jnp.arange(len(sigmas) - 1)
        (last, _), kept = jax.lax.scan(body, (x, self.init(x)), steps)
        if kept is None:
            return SampleResult(last, self.num_evals(sigmas))
        path = jnp.concatenate([x[None], kept[0]])
        return SampleResult(last, self.num_evals(sigmas), path, kept[1])


def slope(x: Array, denoised: Array, sigma: Scalar) -> Array:
    """Slope dx/dsigma of the probability flow."""
    return (x - denoised) / sigma


def is_on(value: Scalar) -> bool:
    """Return False only for the literal 0; a traced value counts as on."""
    return not isinstance(value, (int, float)) or value != 0


def count_steps_twice(sigmas: Array) -> Array:
    """Count two evaluations a step, but one where the step ends at sigma = 0."""
    return len(sigmas) - 1 + (sigmas[1:] > 0).sum()
