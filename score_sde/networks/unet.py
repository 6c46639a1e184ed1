"""The U-Net of the field: residual blocks down, across and up, with skips."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from score_sde.networks.blocks import (
    Attention,
    NoiseAndCondition,
    ResidualBlock,
    downsample,
    group_norm,
    kernel_of,
    over_space,
    upsample,
    with_divergence,
)
from score_sde.networks.cond import has_entry
from score_sde.networks.fitting import (
    ANY_SPACE,
    head_problems,
    level_problems,
    level_sides,
    space_problems,
)
from score_sde.networks.options import (
    Count,
    DropoutRate,
    Embedding,
    Frequencies,
    Sides,
    Size,
    Widths,
)
from score_sde.types import Array


def unet_problems(module: Any, shape: tuple[int, ...]) -> list[str]:
    """Texts of what is wrong with the options of a U-Net for data of this shape.

    Args:
        module: has channels, multipliers, attention_resolutions and num_heads, like
            `UNet`, and attention at the listed resolutions alone.
        shape: of one example.
    """
    if problems := space_problems(shape, ANY_SPACE):
        return problems
    multipliers, attending = module.multipliers, module.attention_resolutions
    problems = level_problems(shape, multipliers, attending)
    sides = level_sides(shape, multipliers)
    widths = [
        module.channels * multiplier
        for multiplier, side in zip(multipliers, sides, strict=True)
        if side in attending
    ]
    return problems + head_problems("num_heads", module.num_heads, widths)


Block = Callable[[Array, int], Array]
"""A function (h, width) -> h of this width."""


def down_and_up(
    h: Array, block: Block, widths: Sequence[int], blocks_per_level: int
) -> Array:
    """Go down and up all levels, with skips; see `down` and `up`."""
    return up(*down(h, block, widths, blocks_per_level), block, widths)


def down(
    h: Array, block: Block, widths: Sequence[int], blocks_per_level: int
) -> tuple[Array, list[Array]]:
    """Go down the levels: (h after the middle block, the skips that the way up reads).

    Args:
        h: output of the first convolution.
        block: called as block(h, width), blocks_per_level times at each width and once
            in the middle.
        widths: channels of each level; h is halved between them.
        blocks_per_level: number of blocks at each level.
    """
    skips = [h]
    for level, width in enumerate(widths):
        if level > 0:
            h = downsample(h)
            skips.append(h)
        for _ in range(blocks_per_level):
            h = block(h, width)
            skips.append(h)
    return block(h, widths[-1]), skips


def up(h: Array, skips: Sequence[Array], block: Block, widths: Sequence[int]) -> Array:
    """Go up the levels, with as many blocks at each width as there are skips."""
    skips = list(skips)
    blocks_per_level = len(skips) // len(widths)
    for level, width in reversed(list(enumerate(widths))):
        for _ in range(blocks_per_level):
            h = block(jnp.concatenate([h, skips.pop()], axis=-1), width)
        if level > 0:
            h = upsample(h)
    return h


Between = Callable[[Array, list[Array]], tuple[Array, list[Array]]]
"""A function that changes the middle and the skips before the way up reads them."""


class UNetEncoder(nn.Module):
    """The options of a `UNet` and its way down; what has a way up too is a network.

    Args:
        channels: number at full resolution.
        multipliers: of the channels, after 0, 1, 2, ... halvings.
        blocks_per_level: residual blocks on the way down; one more on the way up.
        attention_resolutions: lengths of the first axis of space at which
            self-attention follows each block.
        embedding: 'positional' or 'fourier', of the noise level.
        num_heads: heads of the attention.
        dropout: of each value in a block, in training.
        num_classes: number of classes in cond["label"]; 0 for none.
        vector_dims: size of cond["vector"]; 0 for none.
        input_frequencies: the network also sees sin and cos of its input times pi times
            each of these, so that it can resolve the grey levels of quantised data,
            which decide the likelihood (Kingma et al. 2021, app. C). One period per
            level, num_levels * sigma_data where the input is x / sigma_data at low
            noise and num_levels where it is x, and half of it; others don't tell.
    """

    reads: ClassVar = frozenset(
        {"label", "vector", "ratio", "guidance", "divergence", "input_noise"}
    )
    predicts_variance: ClassVar = False

    channels: Size = 64
    multipliers: Widths = (1, 2)
    blocks_per_level: Size = 2
    attention_resolutions: Sides = ()
    num_heads: Size = 1
    dropout: DropoutRate = 0.0
    embedding: Embedding = "positional"
    num_classes: Count = 0
    vector_dims: Count = 0
    input_frequencies: Frequencies = ()

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.channels * m for m in self.multipliers]

    @nn.nowrap
    def problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the options for data of this shape."""
        return unet_problems(self, shape)

    def encode(
        self,
        x: Array,
        noise: Array,
        cond: Any,
        deterministic: bool,
        enter: Callable[[Array], Array] = lambda h: h,
    ) -> tuple[Array, list[Array], Block]:
        """Go down: (middle, skips, block for the way up); called by a compact method.

        Args:
            x: the noisy data.
            noise: [batch].
            cond: the condition.
            deterministic: whether nothing is dropped out.
            enter: function applied to the output of the first convolution.
        """
        embedding = NoiseAndCondition(
            4 * self.channels, self.embedding, self.num_classes, self.vector_dims
        )(noise, cond)

        def block(h: Array, channels: int) -> Array:
            h = ResidualBlock(channels, self.dropout)(h, embedding, deterministic)
            if h.shape[1] in self.attention_resolutions:
                h = Attention(self.num_heads)(h)
            return h

        seen = self._with_waves(x, embedding, cond)
        h = enter(nn.Conv(self.channels, kernel_of(x))(seen))
        return *down(h, block, self.widths, self.blocks_per_level), block

    def _with_waves(self, x: Array, embedding: Array, cond: Any) -> Array:
        """Join x with its sines and cosines, behind a gate that starts closed.

        Told the noise in x, cond["input_noise"], it shrinks them as that noise shrinks
        their mean, exp(-(pi f s)^2 / 2) times (Barron et al. 2021, eq. 8). A gate that
        is learned lets some through where they are noise, which no solver can follow.
        """
        if not self.input_frequencies:
            return x
        angles = [math.pi * f * x for f in self.input_frequencies]
        waves = jnp.concatenate([*map(jnp.sin, angles), *map(jnp.cos, angles)], axis=-1)
        zeros = nn.initializers.zeros
        gate = nn.Dense(waves.shape[-1], kernel_init=zeros, name="gate")(embedding)
        if has_entry(cond, "input_noise"):
            rates = math.pi * np.repeat([self.input_frequencies] * 2, x.shape[-1])
            noise = cond["input_noise"].astype(gate.dtype)
            spread = jnp.outer(noise, jnp.asarray(rates, gate.dtype))
            gate = gate * jnp.exp(-0.5 * spread**2)
        return jnp.concatenate([x, waves * over_space(gate, x)], axis=-1)


class UNet(UNetEncoder):
    """F(x, noise) for series, images or volumes, by the shape of x (Ho et al. 2020).

    x is [batch, *space, channels] with one, two or three axes of space.
    """

    @nn.compact
    def __call__(
        self,
        x: Array,
        noise: Array,
        cond: Any = None,
        deterministic: bool = True,
        between: Between = lambda h, skips: (h, skips),
    ) -> Array:
        h, skips, block = self.encode(x, noise, cond, deterministic)
        h = up(*between(h, skips), block, self.widths)
        h = nn.silu(group_norm(h.shape[-1])(h))
        zeros = nn.initializers.zeros
        out = nn.Conv(x.shape[-1], kernel_of(x), kernel_init=zeros)(h)
        return with_divergence(out, h, cond)
