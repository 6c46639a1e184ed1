"""Types of the options that several networks have, each with the rule it obeys."""

from __future__ import annotations

from typing import Annotated

from score_sde.networks.attention import IMPLEMENTATIONS
from score_sde.rules import (
    Finite,
    NonNegative,
    Positive,
    Rule,
    Share,
    below,
    each,
    one_of,
)

EMBEDDINGS = ("positional", "fourier")
"""Choices of the first embedding of the noise level."""
DTYPES = ("float32", "bfloat16")
"""Choices for products; parameters, norms and softmax are float32, or float64 like the
input."""

Size = Annotated[int, Positive]
"""A number of channels, layers, heads or pixels of which there is at least one."""
Count = Annotated[int, NonNegative]
"""A number that may be 0, for a network without what it counts."""
Widths = Annotated[tuple[int, ...], each(Positive, at_least_one=True)]
"""Multiples of the channels, one for each level of a U-Net."""
FractionalWidths = Annotated[tuple[float, ...], each(Positive, at_least_one=True)]
"""Multiples of the channels that need not be whole, one for each level of a U-Net."""
Sides = Annotated[tuple[int, ...], each(Positive)]
"""Lengths of the first axis of an image, such as those at which there is attention."""
Frequencies = Annotated[tuple[float, ...], each(Finite)]
"""Frequencies of any sign, or none."""
DropoutRate = Annotated[float, below(1)]
"""The probability with which a value is dropped in training."""
Balance = Annotated[float, Share]
"""The share of the second part in a weighted sum."""
Embedding = Annotated[str, one_of(EMBEDDINGS)]
"""A name among `EMBEDDINGS`."""
Dtype = Annotated[str, one_of(DTYPES)]
"""A name among `DTYPES`."""
AttentionKernel = Annotated[str, one_of(IMPLEMENTATIONS)]
"""A name among `attention.IMPLEMENTATIONS`."""
FilterTaps = Annotated[
    tuple[float, ...],
    Rule(
        "an even number of taps with a sum > 0",
        lambda v: len(v) > 1 and len(v) % 2 == 0 and sum(v) > 0,
    ),
]
"""Taps of the filter with which images are halved and doubled."""
