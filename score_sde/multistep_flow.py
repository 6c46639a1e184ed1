"""An exponential multistep rule for the flow and its log-density.

It takes one evaluation a step.

With x = xt / alpha, l = log sigma and eps = (x - D) / sigma, the probability flow and
what its log-density gains are, for every SDE,

    dx/dl = e^l eps,    d(gained)/dl = divergence of the flow.

A step puts one polynomial through the last values of eps, and one through those of the
divergence, and integrates both, as DEIS does in sampling (Zhang and Chen 2023). It
predicts x, evaluates there, and corrects x and the gain by the polynomial that has the
new value in the place of the oldest one (Adams, Bashforth and Moulton). That costs no
evaluation, and the difference of the two states the error (Milne 1926).

The polynomials are of tau = log((sigma + LOW) / (sigma + HIGH)), which is log sigma in
between, sigma below LOW and 1 / sigma above HIGH: there eps and the divergence are
power series of sigma and of 1 / sigma, so that a few long steps do where log sigma
takes many.

The first step has one value behind it. Its corrector has two, so that its error is of
third order; rules of a higher order divide the first interval (`graded`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from score_sde.arrays import matmul, tensordot
from score_sde.types import Array

LOW = 0.05
"""Noise far below the width of a bin of grey levels leaves the flow a series in it."""
HIGH = 0.3
"""Noise far above the standard deviation of the data, of that order in [-1, 1]."""

ORDERS = (1, 2, 3, 4)

# Gauss-Legendre nodes on [0, 1]; their error is below rounding for steps up to 4.
NODES, NODE_WEIGHTS = (a / 2 for a in np.polynomial.legendre.leggauss(12))
NODES = NODES + 0.5

# The errors of some fifty steps add up: each of them may be a quarter of the tolerance.
SHARE_OF_TOLERANCE = 1 / 4
# Milne's estimate is for short steps. With 1 + 4 h^2 times it, h of log sigma, 95 % of
# errors are below what is stated from a tolerance of 1e-3 on (measured).
LONG_STEP = 4.0


class History(NamedTuple):
    """The last evaluations of one example, the newest first."""

    log_sigmas: Array
    """[order]."""
    noises: Array
    """eps, [order, *dims]."""
    traces: Array
    """Divergence per dimension, [order, num_probes]."""
    filled: Array
    """How many of them there are yet."""


class Weights(NamedTuple):
    """Weights of the new value and of those in the history, [1 + order], in a step."""

    predictor: Array
    corrector: Array
    share: Array
    """Error of the corrector, as a part of what it changes; a scalar."""


class Multistep(diffrax.AbstractAdaptiveSolver):
    """The rule as a solver of diffrax, for the augmented flow of `log_prob` alone.

    The state is (x, gained, error): [*dims], what the log-density gained a dimension
    for each probe [num_probes], and the sum of the errors of all steps, a scalar in
    nats a dimension. An error e of the state counts as score . e nats, by which it
    changes the log-density of the rest of the path.

    Args:
        order: of the error of x and of the log-density on a fixed grid, 1 to 4.

    Raises: ValueError for another order.
    """

    order_of_rule: int = 4

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar[Callable[..., diffrax.LocalLinearInterpolation]] = (
        diffrax.LocalLinearInterpolation
    )
    evals_once_and_per_step: ClassVar = (1, 1)

    def __check_init__(self) -> None:
        if self.order_of_rule not in ORDERS:
            raise ValueError(
                f"the order of a multistep rule is one of {ORDERS}, got "
                f"{self.order_of_rule!r}."
            )

    def order(self, terms: Any) -> int:
        del terms
        return self.order_of_rule

    def error_order(self, terms: Any) -> int:
        """Order of the error of one step, which the step size follows."""
        del terms
        return self.order_of_rule + 1

    def prepared(self, log_sigmas: Array) -> tuple[Array, dict[str, Any]]:
        """Return the grid and the options of `integrate` that the rule wants.

        Polynomials through nodes that grow apart much faster are of little use. The
        gains had the fewest rejected steps at equal error on the closed forms.
        """
        options = {"gains": (0.7, 0.5), "limits": (2.0, 2.0)}
        return graded(log_sigmas, self.order_of_rule), options

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        return terms.vf(t0, y0, args)

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> History:
        del t1
        noise, trace = _evaluate(terms, t0, y0, args)
        slots = jnp.arange(self.order_of_rule) == 0

        def first(value: Array) -> Array:
            return jnp.where(slots.reshape(-1, *[1] * value.ndim), value[None], 0.0)

        log_sigmas = jnp.full(self.order_of_rule, t0)
        return History(log_sigmas, first(noise), first(trace), jnp.asarray(1))

    def step(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: Any,
        args: Any,
        solver_state: History,
        made_jump: Any,
    ) -> tuple[Any, Any, dict[str, Any], History, Any]:
        del made_jump
        (x, gained, error), past = y0, solver_state
        level = jnp.exp(t1)
        of_x, of_gain = _weights(past, t0, t1)
        predicted = x + tensordot(of_x.predictor[1:], past.noises, 1)
        new = _evaluate(terms, t1, type(y0)(predicted, gained, error), args)
        noises, traces = (
            jnp.concatenate([value[None], old])
            for value, old in zip(new, (past.noises, past.traces), strict=True)
        )
        change_x, error_x = _corrected(of_x, noises)
        change_gain, error_gain = _corrected(of_gain, traces)
        per_dim = new[0] * error_x / level  # score . e is the sum of these
        nats = jnp.abs(error_gain).mean() + jnp.abs(per_dim.mean())
        y1 = type(y0)(x + change_x, gained + change_gain, error + nats)
        nats_of_step = jnp.maximum(
            jnp.abs(error_gain).max(), jnp.sqrt((per_dim**2).mean())
        )
        y_error = type(y0)(
            error_x / SHARE_OF_TOLERANCE,
            jnp.full_like(gained, nats_of_step / SHARE_OF_TOLERANCE),
            jnp.zeros_like(error),
        )
        history = History(
            jnp.concatenate([jnp.asarray(t1)[None], past.log_sigmas[:-1]]),
            noises[:-1],
            traces[:-1],
            jnp.minimum(past.filled + 1, self.order_of_rule),
        )
        dense = {"y0": y0, "y1": y1}
        return y1, y_error, dense, history, diffrax.RESULTS.successful


def _evaluate(terms: Any, log_sigma: Any, y: Any, args: Any) -> tuple[Array, Array]:
    """(eps, divergence per dimension) of the augmented flow."""
    drift, trace, _ = terms.vf(log_sigma, y, args)
    return drift * jnp.exp(-log_sigma), trace


def _corrected(weights: Weights, values: Array) -> tuple[Array, Array]:
    """(integral over the step, its error), of values [1 + order, ...]."""
    change = weights.corrector - weights.predictor
    integral = tensordot(weights.corrector, values, 1)
    error = weights.share * tensordot(change, values, 1)
    # An error has no gradient, and the root of a square of 0 an infinite one.
    return integral, jax.lax.stop_gradient(error)


def passed(log_sigma: Array, since: Array) -> Array:
    """Compute tau's change from one log sigma to another, exactly where it is small."""
    sigma, start = jnp.exp(log_sigma), jnp.exp(since)
    gained = start * jnp.expm1(log_sigma - since)
    return jnp.log1p((HIGH - LOW) * gained / ((start + LOW) * (sigma + HIGH)))


def _weights(past: History, t0: Array, t1: Array) -> tuple[Weights, Weights]:
    """Weights of a step from t0 to t1, for eps and for the divergence."""
    order, h = len(past.log_sigmas), t1 - t0
    dtype = past.log_sigmas.dtype
    at = t0 + h * jnp.asarray(NODES, dtype)
    nodes = jnp.concatenate([jnp.asarray(t1, dtype)[None], past.log_sigmas])
    place = jnp.arange(order + 1)
    in_predictor = (place > 0) & (place <= past.filled)
    # The corrector has the new value and all the old ones, but no more than `order`.
    in_corrector = place < jnp.minimum(order, past.filled + 1)
    # The error is that of as many nodes as the predictor has. While they are few, the
    # corrector has one more, and is better by about the step in log sigma.
    in_error = place < past.filled
    factor = jnp.where(past.filled < order, jnp.minimum(jnp.abs(h), 1.0), 1.0)
    factor = factor * (1 + LONG_STEP * h**2)
    apart = passed(nodes[:, None], nodes[None])
    distances = passed(at[None], nodes[:, None])  # [node, quadrature point]

    def lagrange(used: Array) -> Array:
        """The polynomials that are 1 at one node and 0 at the others, [node, point]."""
        others = used[None] & ~jnp.eye(order + 1, dtype=bool)
        # An example that has ended waits for its batch in steps of length 0.
        between = jnp.where(others & (apart != 0), apart, 1.0)
        factors = jnp.where(others[..., None], distances[None] / between[..., None], 1)
        return jnp.where(used[:, None], factors.prod(1), 0.0)

    def vanishing(used: Array) -> Array:
        return jnp.where(used[:, None], distances, 1.0).prod(0)

    by_predictor, by_corrector = lagrange(in_predictor), lagrange(in_corrector)
    of_predictor, of_error = vanishing(in_predictor), vanishing(in_error)

    def integrated(scale: Array) -> Weights:
        measure = h * jnp.asarray(NODE_WEIGHTS, dtype) * scale
        largest = matmul(jnp.abs(of_error), jnp.abs(measure))
        ratio = largest / jnp.abs(matmul(of_predictor, measure))
        return Weights(
            matmul(by_predictor, measure), matmul(by_corrector, measure), factor * ratio
        )

    return integrated(jnp.exp(at)), integrated(jnp.ones_like(at))


def graded(log_sigmas: Array, order: int) -> Array:
    """Divide the first interval of a fixed grid for a rule of fourth order.

    Its start is of third order. Steps of 1, 3 and 12 sixteenths bring what it adds down
    to 1/4096 of what the whole interval would; the lower orders need none.

    Args:
        log_sigmas: the grid, [num_steps + 1].
        order: of the rule.

    Returns:
        The grid, with two points more for order 4.
    """
    if order < 4:
        return log_sigmas
    start, first = log_sigmas[0], log_sigmas[1]
    extra = jnp.stack([start + share * (first - start) for share in (1 / 16, 1 / 4)])
    return jnp.concatenate([log_sigmas[:1], extra, log_sigmas[1:]])
