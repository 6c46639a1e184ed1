"""The U-Net that reads a caption, with its own small encoder of words."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from score_sde.networks.attention import attend_to_self
from score_sde.networks.cond import require_condition
from score_sde.networks.cross_unet import CrossUNet
from score_sde.networks.layers import Dense
from score_sde.networks.options import (
    Count,
    DropoutRate,
    Embedding,
    Sides,
    Size,
    Widths,
)
from score_sde.networks.unet import unet_problems
from score_sde.types import Array

TEXT_HEADS = 4
OF_JUMPS = ("ratio", "guidance", "divergence")
"""Entries of a condition that go to the U-Net as they are."""


class TextEncoder(nn.Module):
    """Encoder of words, int [batch, length], as tokens [batch, length, width].

    It is a transformer that is trained with the network that reads it (Vaswani et al.
    2017, with the norm before each part). A word of -1, none, has an embedding too.
    """

    num_words: int
    width: int
    depth: int = 1
    num_heads: int = TEXT_HEADS

    @nn.compact
    def __call__(self, words: Array) -> Array:
        h = nn.Embed(self.num_words + 1, self.width)(words + 1)
        shape = (1, words.shape[1], self.width)
        init = nn.initializers.normal(0.02)
        h += self.param("position", init, shape, jnp.float32)
        for _ in range(self.depth):
            own = Dense(3 * self.width)(nn.LayerNorm()(h))
            h += Dense(self.width)(attend_to_self(own, self.num_heads))
            inner = nn.gelu(Dense(4 * self.width)(nn.LayerNorm()(h)))
            h += Dense(self.width)(inner)
        return nn.LayerNorm()(h)


class TextUNet(nn.Module):
    """F(x, noise) for data in space, told cond["words"], int [batch, length].

    A word of -1 is none.

    The other arguments are those of `CrossUNet`.

    Args:
        num_words: size of the vocabulary.
        num_classes: number of classes that captions name.
        text_width: features of a token.
        text_depth: blocks of the encoder.
    """

    reads: ClassVar = frozenset({"words", *OF_JUMPS})
    predicts_variance: ClassVar = False

    num_words: Size
    num_classes: Count = 0
    text_width: Size = 64
    text_depth: Size = 1
    channels: Size = 64
    multipliers: Widths = (1, 2)
    blocks_per_level: Size = 2
    attention_resolutions: Sides = (4,)
    num_heads: Size = 1
    dropout: DropoutRate = 0.0
    embedding: Embedding = "positional"

    @nn.nowrap
    def problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the options for data of this shape."""
        problems = unet_problems(self, shape)
        if self.text_width % TEXT_HEADS:
            problems.append(
                f"text_width is {self.text_width}; it must be a multiple of "
                f"{TEXT_HEADS}, the heads of the encoder"
            )
        return problems

    @nn.compact
    def __call__(
        self, x: Array, noise: Array, cond: Any = None, deterministic: bool = True
    ) -> Array:
        require_condition(cond, "words")
        encoder = TextEncoder(self.num_words, self.text_width, self.text_depth)
        network = CrossUNet(
            channels=self.channels,
            multipliers=self.multipliers,
            blocks_per_level=self.blocks_per_level,
            attention_resolutions=self.attention_resolutions,
            num_heads=self.num_heads,
            dropout=self.dropout,
            embedding=self.embedding,
            token_dims=self.text_width,
        )
        told = {name: cond[name] for name in OF_JUMPS if name in cond}
        told["tokens"] = encoder(cond["words"])
        return network(x, noise, told, deterministic)
