"""Captions of handwritten digits, as sequences of words.

A word is its place in `WORDS`; a sequence has `LENGTH` of them, with -1 after its end.
No caption at all is a sequence of -1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from score_sde.arrays import example_keys
from score_sde.types import NO_LABEL, Array, Key, UserError

NUMBERS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
)
WORDS = (
    "a",
    "the",
    "handwritten",
    "digit",
    "number",
    "written",
    "by",
    "hand",
    *NUMBERS,
)
TEMPLATES = (
    "a handwritten {}",
    "the digit {}",
    "the number {} written by hand",
    "a {} written by hand",
    "{}",
)
LENGTH = 6


def tokens(caption: str) -> np.ndarray:
    """The sequence of a caption, int [LENGTH].

    Raises: UserError for a word that is not in `WORDS`, and for too many of them.
    """
    words = caption.lower().split()
    unknown = [word for word in words if word not in WORDS]
    if unknown:
        raise UserError(f"unknown word {unknown[0]!r}; choose from {list(WORDS)}.")
    if len(words) > LENGTH:
        raise UserError(
            f"{caption!r} has {len(words)} words; at most {LENGTH} are read."
        )
    places = [WORDS.index(word) for word in words]
    return np.asarray(places + [NO_LABEL] * (LENGTH - len(words)), np.int32)


def _table() -> np.ndarray:
    """[templates, classes and none, LENGTH]; none comes last, where -1 finds it."""
    none = np.full(LENGTH, NO_LABEL, np.int32)
    rows = [[*(tokens(t.format(n)) for n in NUMBERS), none] for t in TEMPLATES]
    return np.asarray(rows)


TABLE = _table()


def caption_of(label: Any) -> Any:
    """The plainest sequences of labels, [batch] -> [batch, LENGTH]; -1 has none.

    In NumPy or JAX, as the labels are.
    """
    return label.__array_namespace__().asarray(TABLE[0])[label]


def random_captions(key: Key, label: Array) -> Array:
    """Captions in words that are drawn; example i is a function of (key, i)."""
    keys = example_keys(key, len(label))
    draw = jax.vmap(lambda key: jr.randint(key, (), 0, len(TEMPLATES), jnp.int32))
    return jnp.asarray(TABLE)[draw(keys), label]
