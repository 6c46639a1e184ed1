"""Functions of arrays that every floor shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from score_sde.types import NO_LABEL, Array, Key, Scalar

P = ParamSpec("P")
T = TypeVar("T")

# Products in full precision. By default GPUs round the factors of float32 products to
# 11 bits and TPUs to 8, which is for networks: weights of a solver that sum to 1 with
# both signs, or the law of an oracle, would be off in the third digit.
einsum = partial(jnp.einsum, precision="highest")
matmul = partial(jnp.matmul, precision="highest")
tensordot = partial(jnp.tensordot, precision="highest")


def in_full_precision(function: Callable[P, T]) -> Callable[P, T]:
    """Have a function trace its products, a network's among them, in full precision.

    For what is published, and for solvers that choose their steps by differences of
    values: those of rounded products don't become small with the step. A network whose
    dtype is bfloat16 stays in it.
    """

    @wraps(function)
    def traced(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return traced


def as_float(a: Any) -> Array:
    """Make an array of floats: their type stays, whole numbers get the default one.

    NumPy's float64 become float32 without a warning where JAX holds no float64.

    Raises: ValueError for complex numbers.
    """
    a = jnp.asarray(a)
    if jnp.issubdtype(a.dtype, jnp.complexfloating):
        raise ValueError(f"numbers must be real, got {a.dtype}.")
    return a if jnp.issubdtype(a.dtype, jnp.floating) else a.astype(float)


def as_data(x: Any, name: str = "x") -> Array:
    """Make an array of examples, [batch, *dims], of what is scaled data already.

    An array of whole numbers most often holds the levels of an image, 0 to 255, which
    would be taken for data far outside [-1, 1]. Lists of numbers become floats.

    Raises: ValueError for an array of whole, complex or truth values, and for one
        number.
    """
    dtype = getattr(x, "dtype", None)
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"{name} is an array of {dtype}; it must be floats, scaled as the model's "
            f"data are: score_sde.data.centres scales levels of images, and "
            f"{name}.astype(float) takes the numbers as they are."
        )
    x = as_float(x)
    if x.ndim < 1:
        raise ValueError(f"{name} is one number; it must be [batch, *dims].")
    return x


def wide(dtype: Any) -> Any:
    """dtype for levels, sums and norms of arrays of this dtype: float32 at least."""
    return dtype if jnp.dtype(dtype).itemsize > 4 else jnp.dtype(jnp.float32)


def as_levels(sigma: Any) -> Array:
    """Make noise levels floats of 32 bits at least, whatever the data's type is.

    A grid or a schedule in the type of whole numbers would be cut off to them.
    """
    sigma = as_float(sigma)
    return sigma.astype(wide(sigma.dtype))


def is_traced(values: Any) -> bool:
    """Return whether any leaf of a pytree is traced, without a value to check."""
    return any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves(values))


def expand_like(a: Scalar, x: Array) -> Array:
    """Shape and type `a`, a scalar or [batch], to multiply x, [batch, *dims].

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


def flat(x: Array) -> Array:
    """Make each example a row, [batch, *dims] -> [batch, size], of no examples too."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def mean_over_data(x: Array) -> Array:
    """Mean over all axes but the first: [batch, *dims] -> [batch]."""
    return flat(x).mean(axis=1)


def sum_over_data(x: Array) -> Array:
    """Sum over all axes but the first: [batch, *dims] -> [batch]."""
    return flat(x).sum(axis=1)


def where_example(mask: Array, x: Array, other: Array | float) -> Array:
    """Choose, example by example, x where the mask [batch] holds, else the other."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 1)), x, other)


class Place(NamedTuple):
    """The place of these examples in the whole batch."""

    numbers: Array
    """The number of each example there, [examples]."""
    total: int
    """The number of examples of the whole batch."""
    axis: str | None = None
    """The mapped axis along which the other parts lie; None if this is the batch."""


_part: ContextVar[Place | None] = ContextVar("part", default=None)


@contextmanager
def part_of_batch(
    numbers: Array, total: int, axis: str | None = None
) -> Iterator[None]:
    """Say, while functions are traced, that their arrays are a part of a batch.

    Then an example draws the same numbers in a part, on one device of several, say, as
    it does in the whole batch.

    Args:
        numbers: the number of each example in the whole batch, [examples].
        total: the number of examples of the whole batch.
        axis: the mapped axis along which the other parts lie.
    """
    token = _part.set(Place(numbers, total, axis))
    try:
        yield
    finally:
        _part.reset(token)


def place_in_batch(batch: int) -> Place:
    """The place of the examples of arrays [batch, ...] in the whole batch.

    They are the whole batch, unless `part_of_batch` says otherwise.
    """
    part = _part.get()
    if part is None:
        return Place(jnp.arange(batch), batch)
    assert len(part.numbers) == batch, (len(part.numbers), batch)
    return part


def mean_over_batch(tree: Any) -> Any:
    """The means over the whole batch of what are means over this part of it.

    Parts that are computed one after another have no mean of all: whoever needs it
    says so (`Objective.needs_whole_batch`).
    """
    part = _part.get()
    if part is None or part.axis is None:
        return tree
    return jax.lax.pmean(tree, part.axis)


def typed_key(key: Any) -> Key:
    """Return a key itself, or the key that the words of `jax.random.PRNGKey` mean.

    Raises: ValueError for what is no key.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    if dtype == jnp.uint32 and key.ndim:
        return jr.wrap_key_data(jnp.asarray(key))
    raise ValueError(f"a key is made by jax.random.key(seed), got {key!r}.")


def example_keys(key: Key, batch: int, *, first: int = 0) -> Key:
    """Make one key per example, a function of (key, index of the example) alone.

    A sample, or a training step, then doesn't depend on how examples are cut into
    batches, devices or hosts.

    Args:
        key: one key; or one per example already, shape [batch], which pass unchanged.
        batch: the number of examples.
        first: the index of the first example.

    Raises: ValueError for what is no key, and for keys of another number of examples.
    """
    key = typed_key(key)
    if key.shape == (batch,):
        return key
    if key.ndim:
        raise ValueError(f"{batch} examples need one key or {batch}, got {key.shape}.")
    numbers = first + place_in_batch(batch).numbers
    return jax.vmap(lambda i: jr.fold_in(key, i))(numbers)


def per_example(draw: Callable[..., Array], keys: Key, x: Array) -> Array:
    """Call `draw(key, dims, dtype)` for each example of x, [batch, *dims]."""
    return jax.vmap(lambda key: in_one_piece(draw, key, x.shape[1:], x.dtype))(keys)


def in_one_piece(
    draw: Callable[..., Array], key: Key, shape: tuple[int, ...], dtype: Any
) -> Array:
    """Call `draw(key, shape, dtype)` for an array that is never cut over devices.

    By default JAX throws half of each hash of Threefry away, so that any part of an
    array can be drawn by itself. One that is drawn whole takes both halves: a quarter
    of the time on a CPU. The draws are the same whatever JAX's flag says.
    """
    with jax.threefry_partitionable(False):
        return draw(key, shape, dtype)


def check_alike(name: str, value: Array, x: Array) -> Array:
    """Return the value itself, if it has the shape of x: nothing is broadcast.

    Raises: ValueError.
    """
    if value.shape != x.shape:
        raise ValueError(f"{name} must be shaped like x, {x.shape}; got {value.shape}.")
    return value


def unbatched(function: Callable[..., Array]) -> Callable[..., Array]:
    """Make a function(x, t, cond) of a batch one of a single example, without batch."""

    def one(x: Array, t: Scalar, cond: Any = None) -> Array:
        return function(x[None], t, jax.tree.map(lambda c: c[None], cond))[0]

    return one


def as_labels(labels: Any, num_classes: int) -> Array:
    """Make labels of a type that holds every class and -1, which stands for none.

    Args:
        labels: whole numbers of any type, [batch].
        num_classes: the number of classes.

    Raises: ValueError for labels that are no class, unless they are traced, and for
        numbers that are not whole.
    """
    check_labels(labels, num_classes)
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}.")
    return labels.astype(jnp.int32)


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
