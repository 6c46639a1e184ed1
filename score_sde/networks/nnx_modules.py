"""Modules of Flax NNX as networks; the only file that imports NNX."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from score_sde.networks.calling import call_options, reject_state
from score_sde.networks.network import FROZEN_MODULE, Network
from score_sde.types import Array, Key, UserError

Path = tuple[Any, ...]


class _Parts(NamedTuple):
    """A module taken apart; the variables and arrays are by their paths in it."""

    structure: Any
    trained: dict[Path, nnx.Variable]
    random: dict[Path, nnx.Variable]
    """Keys and counters of random streams."""
    constants: dict[Path, Array]
    """Arrays that are no variables, such as fixed frequencies."""


def make_network(make: Any) -> Network:
    """The Network of an `nnx.Module` or of a function that makes one (`from_nnx`)."""
    is_made = isinstance(make, nnx.Module)
    template = _parts_of(
        make if is_made else nnx.eval_shape(lambda: _built(make, jax.random.key(0)))
    )

    def init(key: Key) -> Any:
        if is_made:
            return _params_of(template)
        return jax.jit(lambda key: _params_of(_parts_of(_built(make, key))))(key)

    def apply(
        params: Any,
        x: Array,
        noise: Array,
        cond: Any = None,
        *,
        dropout_key: Key | None = None,
    ) -> Array:
        module = _with_params(template, params, dropout_key)
        before = _arrays_of(_parts_of(module))
        options = call_options(module, deterministic=dropout_key is None)
        out = module(x, noise, cond, **options)
        after = _arrays_of(_parts_of(module))
        changed = [path for path, a in after.items() if a is not before.get(path)]
        reject_state(module, [f"{_text(path)} (it changes)" for path in changed])
        return out

    return Network(init, apply)


def _built(make: Any, key: Key) -> nnx.Module:
    """A new module, all of whose arrays NNX can find, also while they are traced."""
    function = getattr(make, "func", make)  # of a functools.partial
    is_class = inspect.isclass(function)
    names = inspect.signature(function.__init__ if is_class else function).parameters
    rngs = nnx.Rngs(key)
    # By keyword where it can be, as constructors of NNX have it.
    module = make(rngs=rngs) if "rngs" in names else make(rngs)
    if not isinstance(module, nnx.Module):
        raise UserError(f"it made a {type(module).__name__}, not an nnx.Module.")
    for _, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Pytree):
            for name, value in list(vars(node).items()):
                if isinstance(value, jax.Array):
                    setattr(node, name, nnx.data(value))
    return module


def _parts_of(module: nnx.Module) -> _Parts:
    """Take a module apart.

    Raises: UserError if it has variables that are neither trained nor random streams.
    """
    kinds = (nnx.Param, nnx.RngState, nnx.Intermediate, ...)
    structure, *states = nnx.split(module, *kinds)
    trained, random, _, rest = (dict(nnx.to_flat_state(state)) for state in states)
    reject_state(
        module,
        [
            f"{_text(path)} ({type(variable).__name__})"
            for path, variable in rest.items()
            if isinstance(variable, nnx.Variable)
        ],
    )
    return _Parts(structure, trained, random, rest)


def _with_params(parts: _Parts, params: Any, dropout_key: Key | None) -> Any:
    """The module with these parameters, which drops out if there is a key."""
    leaves: dict[Path, Any] = {
        path: variable.replace(_at(params, path))
        for path, variable in parts.trained.items()
    }
    for path in parts.constants:
        array = _at(params, (FROZEN_MODULE, *path))
        leaves[path] = jax.lax.stop_gradient(array)
    key = jax.random.key(0) if dropout_key is None else dropout_key
    for i, (path, variable) in enumerate(parts.random.items()):
        if isinstance(variable, nnx.RngCount):
            value = jnp.zeros(variable.shape, jnp.uint32)
        else:
            value = jax.random.split(jax.random.fold_in(key, i), variable.shape)
        leaves[path] = variable.replace(value)
    module = nnx.merge(parts.structure, nnx.from_flat_state(leaves))
    # These two set attributes of all modules inside; neither computes anything.
    (nnx.Module.eval if dropout_key is None else nnx.Module.train)(module)
    return module


def _arrays_of(parts: _Parts) -> dict[Path, Any]:
    """The arrays that a call must leave as they are."""
    values = {path: v.get_value() for path, v in parts.trained.items()}
    return {**values, **parts.constants}


def _params_of(parts: _Parts) -> dict[str, Any]:
    """The arrays of a module as a nested dict, constants under "frozen"."""
    params: dict[str, Any] = {}
    for path, variable in parts.trained.items():
        _put(params, path, variable.get_value())
    for path, array in parts.constants.items():
        _put(params, (FROZEN_MODULE, *path), jnp.asarray(array))
    return params


def _put(params: dict[str, Any], path: Path, array: Array) -> None:
    *words, last = map(str, path)
    for word in words:
        params = params.setdefault(word, {})
    params[last] = array


def _at(params: Any, path: Path) -> Any:
    for word in path:
        params = params[str(word)]
    return params


def _text(path: Path) -> str:
    return ".".join(map(str, path))
