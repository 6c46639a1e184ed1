"""Labels of any kind as numbers of classes: texts, one-hot rows, numbers with gaps."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from score_sde.types import UserError

MANY = 10
"""So many names of classes are said one by one."""


class Classes(NamedTuple):
    """The labels of some examples."""

    labels: np.ndarray
    """int32 [examples], from 0 to the number of names - 1."""
    names: tuple[str, ...]
    done: str
    """What was done to get there."""


def classes_of(given: Any, where: str, names: tuple[str, ...] = ()) -> Classes:
    """Number the classes of labels.

    Whole numbers from 0 without a gap stay as they are, others are numbered in their
    order, texts in that of the alphabet. A row with a single 1 among zeros is the
    number of its column.

    Args:
        given: [examples] of numbers or texts, or one-hot rows [examples, classes].
        where: what errors call them.
        names: classes that are numbered already; () to number those that are there.

    Raises:
        UserError: if they are none of these.
    """
    found = _numbered(given, where)
    if not names or found.names == names:
        return found
    number = {name: label for label, name in enumerate(names)}
    unknown = [name for name in found.names if name not in number]
    if unknown:
        raise UserError(
            f"{where} have the class {unknown[0]!r}, none of {list(names)}."
        )
    table = np.asarray([number[name] for name in found.names], np.int32)
    done = f"labels: {len(found.names)} of {len(names)} classes"
    return Classes(table[found.labels], names, done)


def _numbered(given: Any, where: str) -> Classes:
    """Number the classes that are there."""
    values = np.asarray(given)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2 and values.dtype.kind in "biuf":
        is_one_hot = ((values == 0) | (values == 1)).all() and (
            values.sum(1) == 1
        ).all()
        if not is_one_hot:
            raise UserError(
                f"{where} are rows of {values.shape[1]} numbers that are not one-hot; "
                "expected a label for each example."
            )
        names = tuple(map(str, range(values.shape[1])))
        labels = values.argmax(1).astype(np.int32)
        return Classes(labels, names, f"labels: {len(names)} classes, of one-hot rows")
    if values.ndim != 1 or values.dtype.kind not in "biufUS":
        raise UserError(
            f"{where} are {values.dtype} of shape {values.shape}; expected a number or "
            "a text for each example, or one-hot rows."
        )
    if values.dtype.kind == "f":
        if not (np.isfinite(values) & (values == np.round(values))).all():
            raise UserError(f"{where} are no whole numbers; expected classes.")
        values = values.astype(np.int64)
    known, labels = np.unique(values, return_inverse=True)
    names = tuple(map(str, known.astype(str).tolist()))
    is_same = known.dtype.kind in "iu" and np.array_equal(known, np.arange(len(known)))
    listed = ", ".join(names) if len(names) <= MANY else f"{names[0]} to {names[-1]}"
    done = f"labels: {len(names)} classes" + (
        "" if is_same else f", numbered: {listed}"
    )
    return Classes(labels.astype(np.int32), names, done)
