"""The published convolutional U-Nets' common parts: layers and blocks.

DDPM (Ho et al. 2020), DDPM++ and NCSN++ (Song et al. 2021), ADM (Dhariwal and Nichol
2021) and their versions in EDM (Karras et al. 2022) are made of these. What is
initialised at zero or nearly so, the last layer of every branch, is marked `last`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import jax.random as jr

from score_sde.networks.attention import attend_to_self
from score_sde.networks.blocks import Dropout, upsample
from score_sde.networks.layers import Dense, GroupNorm
from score_sde.networks.resampling import resampled
from score_sde.networks.unet_plan import Plan, PlannedBlock
from score_sde.types import Array, Key


class Layers(NamedTuple):
    """Makers of the layers of a network, which begin and compute alike."""

    init: str
    """'xavier': uniform, of variance 1 / mean of fans, biases zero, the last layers
    times 1e-5; 'torch': uniform up to 1 / sqrt(fan in), biases too, the last zero."""
    norm_eps: float
    min_group: int
    """Channels in a group of a norm, which has at most 32 groups, at least."""
    dtype: str
    """dtype of products; norms are in float32 at least."""

    def norm(self, x: Array, name: str) -> Array:
        """Normalise groups of channels (`GroupNorm`)."""
        if problem := self.norm_problem(x.shape[-1]):
            raise ValueError(f"{problem}.")
        return GroupNorm(self._groups(x.shape[-1]), self.norm_eps, name=name)(x)

    def norm_problem(self, channels: int) -> str:
        """Say why so many channels can't be normalised; empty if they can."""
        groups = self._groups(channels)
        if groups and channels % groups == 0:
            return ""
        return (
            f"{channels} channels can't be normalised in {groups} groups; make the "
            "widths of the network multiples of 32"
        )

    def _groups(self, channels: int) -> int:
        return min(32, channels // self.min_group)

    def conv(
        self,
        x: Array,
        width: int,
        name: str,
        *,
        stride: int = 1,
        padding: Any = "SAME",
        last: bool = False,
    ) -> Array:
        """Convolve with a 3x3 kernel, whose initial values are small if `last`."""
        kernel_init, bias_init = self._inits(9 * x.shape[-1], 1.0, last)
        conv = nn.Conv(
            width,
            (3, 3),
            (stride, stride),
            padding,
            dtype=self._dtype,
            kernel_init=kernel_init,
            bias_init=bias_init,
            name=name,
        )
        return conv(x)

    def dense(
        self,
        x: Array,
        width: int,
        name: str,
        *,
        gain: float = 1.0,
        last: bool = False,
        use_bias: bool = True,
    ) -> Array:
        """Map the last axis, as a 1x1 convolution; `gain` is on the initial values."""
        kernel_init, bias_init = self._inits(x.shape[-1], gain, last)
        dense = Dense(
            width,
            use_bias,
            dtype=self._dtype,
            kernel_init=kernel_init,
            bias_init=bias_init,
            name=name,
        )
        return dense(x)

    @property
    def _dtype(self) -> Any:
        """dtype for Flax, where None stands for that of the input."""
        return None if self.dtype == "float32" else jnp.dtype(self.dtype)

    def _inits(self, fan_in: int, gain: float, last: bool) -> tuple[Any, Any]:
        zeros = nn.initializers.zeros
        scaling = nn.initializers.variance_scaling
        if self.init == "xavier":
            gain = 1e-5 if last else gain
            return scaling(gain**2, "fan_avg", "uniform"), zeros
        if last:
            return zeros, zeros
        bound = gain / math.sqrt(fan_in)

        def uniform(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
            return jr.uniform(key, shape, dtype, -bound, bound)

        return uniform, uniform


class Style(NamedTuple):
    """The properties that all blocks of a network have in common."""

    layers: Layers
    dropout: float = 0.0
    attention: str = "xla"
    """Implementation of attention; see `attention.attend`."""
    resample_filter: tuple[float, ...] = (1, 1)
    scale_shift: bool = False
    """The embedding scales and shifts behind the norm; if not, it is added before."""
    skip_rescale: bool = False
    """Sums of two are divided by sqrt(2)."""
    project_resampled: bool = False
    """A shortcut that resamples has a 1x1 convolution even between equal widths."""
    skip_gain: float = 1.0
    """Factor on the initial values of shortcuts."""
    qkv_gain: float = 1.0
    by_head: bool = False
    """Order of the channels of `qkv`; see `attention.split_heads`."""

    def add(self, x: Array, h: Array) -> Array:
        """Add a residual branch to its input."""
        return (x + h) * math.sqrt(0.5) if self.skip_rescale else x + h

    def projects(self, reads: int, width: int, resample: str) -> bool:
        """Whether the shortcut of a block has a 1x1 convolution."""
        return reads != width or (bool(resample) and self.project_resampled)


class Block(nn.Module):
    """Norm, SiLU, 3x3 convolution twice, with a shortcut; then perhaps attention.

    The noise and the condition come in at the second norm. Both branches are resampled
    in front of the first convolution.
    """

    style: Style
    width: int
    num_heads: int = 0
    """Heads of the attention; 0 for a block without it."""
    resample: str = ""

    @nn.compact
    def __call__(self, x: Array, embedding: Array, deterministic: bool) -> Array:
        style, layers = self.style, self.style.layers
        h = nn.silu(layers.norm(x, "norm0")).astype(x.dtype)
        if self.resample:
            h, x = (resampled(a, self.resample, style.resample_filter) for a in (h, x))
        h = layers.conv(h, self.width, "conv0")
        size = 2 * self.width if style.scale_shift else self.width
        affine = layers.dense(embedding, size, "affine")[:, None, None, :]
        if style.scale_shift:
            h = layers.norm(h, "norm1")
            scale, shift = jnp.split(affine.astype(h.dtype), 2, axis=-1)
            h = h * (1 + scale) + shift
        else:
            h = layers.norm(h + affine.astype(h.dtype), "norm1")
        h = Dropout(style.dropout)(nn.silu(h), deterministic)
        h = layers.conv(h, self.width, "conv1", last=True)
        if style.projects(x.shape[-1], self.width, self.resample):
            x = layers.dense(x, self.width, "skip", gain=style.skip_gain)
        x = style.add(x, h.astype(x.dtype))
        return style.add(x, self._attention(x)) if self.num_heads else x

    def _attention(self, x: Array) -> Array:
        """Attention of all positions to each other."""
        style, layers = self.style, self.style.layers
        batch, *_, channels = x.shape
        h = layers.norm(x, "norm2")
        qkv = layers.dense(h, 3 * channels, "qkv", gain=style.qkv_gain)
        h = attend_to_self(
            qkv.reshape(batch, -1, 3 * channels),
            self.num_heads,
            by_head=style.by_head,
            implementation=style.attention,
        ).reshape(x.shape)
        return layers.dense(h, channels, "proj", last=True).astype(x.dtype)


def norm_problems(layers: Layers, steps: Plan) -> list[str]:
    """Texts of what is wrong with the norms of the blocks of a network."""
    blocks = [*steps.encoder, *steps.decoder]
    channels = sorted({c for step in blocks for c in (step.reads, step.width)})
    problems = [layers.norm_problem(c) for c in channels]
    return [f"channels: {problem}" for problem in problems if problem]


def conv_resample(
    layers: Layers, h: Array, step: PlannedBlock, name: str, *, padding: Any
) -> Array:
    """Halve by a 3x3 convolution of stride 2, or double and convolve."""
    if step.resample == "down":
        return layers.conv(h, step.width, name, stride=2, padding=padding)
    return layers.conv(upsample(h), step.width, name)


def checkpointed(remat: bool) -> Any:
    """The class of blocks, or one whose inside the backward pass computes again."""
    return nn.remat(Block, static_argnums=(3,)) if remat else Block
