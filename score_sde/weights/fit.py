"""Named arrays into the parameters of a network, every one accounted for, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from score_sde.types import UserError
from score_sde.weights.files import read
from score_sde.weights.published.tensors import Tensor, leaf_of, params_of
from score_sde.weights.state_dict import StateDict, array_of, state_dict

WRAPPERS = ("model.", "unet.")
"""Prefixes that wrapper modules put in front of the network's own names."""

SHOWN = 8
Tables = Mapping[str, Sequence[Tensor]]
"""Program -> the entries of its files of a network."""


def parameters_of_files(
    module: Any,
    shape: tuple[int, ...],
    files: Sequence[Path],
    tables_of: Callable[[Any], Tables],
) -> Any:
    """The parameters of a Linen module of images, of the files that hold them together.

    Args:
        module: the network, a function of one batch of images.
        shape: of one image that it takes.
        files: state dicts; a later one goes before an earlier one.
        tables_of: the shapes of its parameters -> the names that files use.

    Raises:
        UserError: for files that are missing, or do not fit.
    """
    one = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    like = jax.eval_shape(module.init, jax.random.key(0), one)["params"]
    named: dict[str, Any] = {}
    for path in files:
        named |= state_dict(read(path)).named
    return fit(StateDict(named, []), tables_of(like), like)[1]


def fit(state: StateDict, tables: Tables, like: Any) -> tuple[str, Any]:
    """Fit the arrays of a file to a network: (program, parameters shaped as `like`).

    Args:
        state: the tensors of the file.
        tables: program -> the entries of its files of this network.
        like: parameters, or their shapes and dtypes.

    Raises:
        UserError: lists all missing, unused, misshapen and unfit tensors.
    """
    program, named = _part_with_network(state, tables)
    table = tables[program]
    problems: list[str] = []
    if state.unnamed:
        trained = [t.name for t in table if t.path and not t.frozen]
        if len(trained) != len(state.unnamed):
            problems.append(
                f"the average has {len(state.unnamed)} tensors; the network trains "
                f"{len(trained)}"
            )
        named = named | dict(zip(trained, state.unnamed, strict=False))
    known = {tensor.name for tensor in table}
    ignored = tuple(name[:-1] for name in known if name.endswith("*"))
    # Constants are known here, whether a file has them or not.
    missing = [t.name for t in table if t.path and t.name not in named]
    problems += _listed("missing", missing)
    arrays_there = {
        n: array_of(n, a) for n, a in named.items() if not n.startswith(ignored)
    }
    unused = [
        n for n, a in arrays_there.items() if n not in known and not _is_counter(a)
    ]
    problems += _listed("unused", unused)
    misshapen, unfit = [], []
    arrays: list[tuple[Tensor, np.ndarray]] = []
    for tensor in table:
        if tensor.name not in named or tensor.unused:
            continue
        array = arrays_there[tensor.name]
        target = leaf_of(like, tensor)
        shape = _published_shape(tensor, target)
        if array.shape != shape:
            misshapen.append(f"{tensor.name} {list(array.shape)}, not {list(shape)}")
        elif why := _unfit(tensor, array):
            unfit.append(f"{tensor.name} ({why})")
        elif tensor.path:
            here = tensor.layout.to_here(array.astype(target.dtype))
            arrays.append((tensor, np.ascontiguousarray(here).reshape(target.shape)))
    problems += _listed("misshapen", misshapen) + _listed("unfit", unfit)
    if problems:
        raise UserError("\n  ".join(["the file doesn't fit the network:", *problems]))
    return program, params_of(arrays)


def published_arrays(params: Any, table: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Make the entries of a published state dict that holds these parameters."""
    arrays = {}
    for tensor in table:
        if tensor.unused and tensor.value is None:
            continue
        array = tensor.value
        if tensor.path:
            array = tensor.layout.to_published(np.asarray(leaf_of(params, tensor)))
        assert array is not None
        arrays[tensor.name] = np.ascontiguousarray(array).reshape(array.shape)
    return arrays


class _Part(NamedTuple):
    """A part of a file in which names of a network were found."""

    program: str
    prefix: str
    """The beginning of all names in this part."""
    wrapper: str
    """The prefix in WRAPPERS that they lack."""
    found: int
    """Number of the names."""

    @property
    def rank(self) -> tuple[bool, int, int]:
        """The part that ranks highest is taken, of equal ones the first."""
        return self.is_average, self.found, -self.prefix.count(".")

    @property
    def is_average(self) -> bool:
        """Whether a word of its prefix is like "ema", "params_ema" or "ema_model"."""
        return any("ema" in word.split("_") for word in self.prefix.split("."))


def _part_with_network(
    state: StateDict, tables: Mapping[str, Sequence[Tensor]]
) -> tuple[str, dict[str, Any]]:
    """Find the part of a file that has this network: (program, its tensors by name).

    An average is preferred to the parameters that were being trained. A part is what
    has a prefix in common, such as "model.module." or "state_dict.", and half as many
    names of the network as any other, so that an average that lacks some is not passed
    over in silence.
    """
    parts = list(_parts(state.named, tables))
    if not parts:  # then all that the file has is unused, or it has an average alone
        trained = {
            program: sum(bool(t.path) and not t.frozen for t in table)
            for program, table in tables.items()
        }
        fits = [p for p, count in trained.items() if count == len(state.unnamed)]
        return (fits or list(tables))[0], state.named
    most = max(part.found for part in parts)
    part = max((p for p in parts if 2 * p.found >= most), key=lambda p: p.rank)
    own = {t.name.removeprefix(part.wrapper): t.name for t in tables[part.program]}
    inside = {
        name.removeprefix(part.prefix): tensor
        for name, tensor in state.named.items()
        if name.startswith(part.prefix)
    }
    return part.program, {own.get(n, n): tensor for n, tensor in inside.items()}


def _parts(
    named: Mapping[str, Any], tables: Mapping[str, Sequence[Tensor]]
) -> Iterator[_Part]:
    """Yield every prefix in front of names of a network, with and without wrapper."""
    for program, table in tables.items():
        names = {tensor.name for tensor in table}
        for wrapper in ("", *WRAPPERS):
            known = {name.removeprefix(wrapper) for name in names}
            if wrapper and known == names:
                continue
            counts: Counter[str] = Counter()
            for name in named:
                words = name.split(".")
                for i in range(len(words)):
                    if (end := ".".join(words[i:])) in known:
                        counts[name.removesuffix(end)] += 1
            for prefix, count in counts.items():
                yield _Part(program, prefix, wrapper, count)


def _is_counter(array: np.ndarray) -> bool:
    """Whether an array counts steps or batches, beside the weights."""
    return array.ndim == 0 and array.dtype.kind in "iub"


def _published_shape(tensor: Tensor, target: Any) -> tuple[int, ...]:
    if tensor.value is not None:
        return tensor.value.shape
    nothing = np.broadcast_to(np.float32(0), target.shape)
    return tensor.layout.to_published(nothing).shape


def _unfit(tensor: Tensor, array: np.ndarray) -> str:
    """The reason why an array of the right shape can't be this entry; empty if none."""
    if tensor.value is not None:
        # Files in half precision round it.
        same = np.allclose(array.astype(np.float64), tensor.value, rtol=2e-3)
        return "" if same else "not the values that the network computes with"
    if array.dtype.kind != "f" and array.dtype != ml_dtypes.bfloat16:
        return f"{array.dtype}, not a float"
    return "" if np.isfinite(array.astype(np.float32)).all() else "not finite"


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{len(names)} {what}: {', '.join(sorted(names)[:SHOWN])}{more}"]
