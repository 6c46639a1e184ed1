"""Counts of the operations of a network: two for each multiplication and addition."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

from score_sde.networks.layers import normalise_groups


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Operations of the convolutions and matrix products in function(*args), no norms.

    The traced program is counted: nothing is compiled or run, and `args` may be shapes.
    A convolution counts every place of its kernel, those on the padding too. A
    loop of unknown length counts as one pass, a branch as the dearest.
    """
    return flops_of(jax.make_jaxpr(function)(*args).jaxpr)


def forward_flops(
    network: Any, params: Any, shape: tuple[int, ...], cond: Any = None
) -> int:
    """Operations of a `Network` for one example; `params` and `cond` may be shapes."""
    x = jax.ShapeDtypeStruct((1, *shape), "float32")
    noise = jax.ShapeDtypeStruct((1,), "float32")
    return count_flops(network.apply, params, x, noise, cond)


def flops_of(jaxpr: core.Jaxpr) -> int:
    """Operations of a traced program, as `count_flops` counts."""
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: core.JaxprEqn) -> int:
    name = equation.primitive.name
    operands: list[Any] = [v.aval for v in equation.invars]
    results: list[Any] = [v.aval for v in equation.outvars]
    if equation.params.get("name") == normalise_groups.__name__:
        return 0  # as sums and element-wise operations
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        depth = math.prod(operands[0].shape[axis] for axis in contracted)
        return 2 * results[0].size * depth
    if name == "conv_general_dilated":
        # The kernel, without its axis of output channels, for every output.
        axis = equation.params["dimension_numbers"].rhs_spec[0]
        kernel = operands[1].size // operands[1].shape[axis]
        return 2 * results[0].size * kernel
    if name == "cond":
        return max(flops_of(branch.jaxpr) for branch in equation.params["branches"])
    inner = sum(flops_of(jaxpr) for jaxpr in _inside(equation.params))
    return inner * equation.params["length"] if name == "scan" else inner


def _inside(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """Yield the programs that an equation calls."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
