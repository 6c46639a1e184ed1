"""The few array helpers that every floor shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from score_sde.types import NO_LABEL, Array, Key, Scalar


def as_float(a: Any) -> Array:
    """An array of floats: their type stays, whole numbers get the default one.

    NumPy's float64 become float32 without a warning where JAX holds no float64.
    """
    a = jnp.asarray(a)
    return a if jnp.issubdtype(a.dtype, jnp.floating) else a.astype(float)


def is_traced(values: Any) -> bool:
    """Whether any of these, a pytree, has no value to check yet."""
    return any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves(values))


def expand_like(a: Scalar, x: Array) -> Array:
    """`a`, a scalar or [batch], shaped and typed to multiply `x`, [batch, *dims].

    Raises: ValueError if `a` is neither.
    """
    a = jnp.asarray(a, jnp.result_type(x))
    if a.ndim == 0:
        return a
    if a.ndim != 1 or a.shape[0] != x.shape[0]:
        raise ValueError(
            f"expected a scalar or one value per example, shape ({x.shape[0]},), "
            f"got shape {a.shape} for data of shape {x.shape}."
        )
    return a.reshape(a.shape + (1,) * (x.ndim - 1))


def mean_over_data(x: Array) -> Array:
    """Mean over all axes but the first: [batch, *dims] -> [batch]."""
    return x.reshape(x.shape[0], -1).mean(axis=1)


def sum_over_data(x: Array) -> Array:
    """Sum over all axes but the first: [batch, *dims] -> [batch]."""
    return x.reshape(x.shape[0], -1).sum(axis=1)


def where_example(mask: Array, x: Array, other: Array | float) -> Array:
    """x where the mask of its example holds, [batch], else the other."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 1)), x, other)


class Examples(NamedTuple):
    """Which examples of a batch arrays hold."""

    numbers: Array
    """Of each, [examples]."""
    total: int
    """How many the whole batch has."""


_part: ContextVar[Examples | None] = ContextVar("part", default=None)


@contextmanager
def part_of_batch(numbers: Array, total: int) -> Iterator[None]:
    """Says, while functions are traced, that their arrays are a part of a batch.

    Then an example draws the same numbers in a part, on one device of several, say, as
    it does in the whole batch.
    """
    token = _part.set(Examples(numbers, total))
    try:
        yield
    finally:
        _part.reset(token)


def examples_of(batch: int) -> Examples:
    """Those that arrays [batch, ...] hold: all, but for `part_of_batch`."""
    part = _part.get()
    if part is None:
        return Examples(jnp.arange(batch), batch)
    assert len(part.numbers) == batch, (len(part.numbers), batch)
    return part


def typed_key(key: Any) -> Key:
    """The key itself; of the words that `jax.random.PRNGKey` gives, the key they mean.

    Raises: ValueError for what is no key.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    if dtype == jnp.uint32 and key.ndim:
        return jr.wrap_key_data(jnp.asarray(key))
    raise ValueError(f"a key is made by jax.random.key(seed), got {key!r}.")


def example_keys(key: Key, batch: int, *, first: int = 0) -> Key:
    """One key per example, a function of (key, index of the example) alone.

    So that a sample, or a training step, doesn't depend on how examples are cut
    into batches, devices or hosts. `first` is the index of the first example. Keys
    that are one per example already, shape (batch,), pass unchanged.

    Raises: ValueError for what is no key, and for keys of another number of examples.
    """
    key = typed_key(key)
    if key.shape == (batch,):
        return key
    if key.ndim:
        raise ValueError(f"{batch} examples need one key or {batch}, got {key.shape}.")
    numbers = first + examples_of(batch).numbers
    return jax.vmap(lambda i: jr.fold_in(key, i))(numbers)


def per_example(draw: Callable[..., Array], keys: Key, x: Array) -> Array:
    """`draw(key, dims, dtype)` for each example of `x`, [batch, *dims]."""
    return jax.vmap(lambda key: draw(key, x.shape[1:], x.dtype))(keys)


def check_alike(name: str, value: Array, x: Array) -> Array:
    """`value` itself, if it has the shape of x: nothing is broadcast unnoticed.

    Raises: ValueError.
    """
    if value.shape != x.shape:
        raise ValueError(f"{name} must be shaped like x, {x.shape}; got {value.shape}.")
    return value


def unbatched(function: Callable[..., Array]) -> Callable[..., Array]:
    """`function(x, t, cond)` of a batch, as a function of one example without batch."""

    def one(x: Array, t: Scalar, cond: Any = None) -> Array:
        return function(x[None], t, jax.tree.map(lambda c: c[None], cond))[0]

    return one


def check_labels(labels: Any, num_classes: int) -> None:
    """Refuse labels that are no class; -1, no label, is allowed.

    Raises: ValueError. Traced labels have no values to check and pass.
    """
    if is_traced(labels):
        return
    labels = np.asarray(labels)
    if num_classes == 0:
        raise ValueError("labels were given to a model without classes.")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}.")
    wrong = labels[(labels < NO_LABEL) | (labels >= num_classes)]
    if wrong.size:
        raise ValueError(
            f"label {wrong.flat[0]} is no class; choose from 0 to {num_classes - 1}, "
            f"or {NO_LABEL} for none."
        )
