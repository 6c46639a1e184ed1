"""The published U-Nets' common options, and the plan of their blocks.

DDPM, DDPM++ and NCSN++, ADM and EDM2 have their blocks at the same places, under the
names that EDM gave them; they differ in what a block is.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from score_sde.networks.fitting import IMAGES, level_problems, space_problems
from score_sde.networks.options import (
    AttentionKernel,
    Count,
    DropoutRate,
    Dtype,
    FractionalWidths,
    Sides,
    Size,
)
from score_sde.types import Array


class PlannedBlock(NamedTuple):
    """One block of a U-Net, under the name that EDM gave it."""

    name: str
    reads: int
    """Channels of its input."""
    width: int
    """Channels of its output."""
    attends: bool = False
    resample: str = ""
    joins: bool = False
    """Whether it reads the output of an encoder block too."""


class Plan(NamedTuple):
    """The blocks of a U-Net, after the first convolution."""

    encoder: list[PlannedBlock]
    decoder: list[PlannedBlock]

    @property
    def attending_widths(self) -> set[int]:
        """Channels of all blocks with attention."""
        return {s.width for s in (*self.encoder, *self.decoder) if s.attends}


def plan(
    height: int,
    first: int,
    widths: Sequence[int],
    blocks_per_level: int,
    attention_resolutions: Sequence[int],
    *,
    attend_in_every_block: bool,
    doubles_below: bool = False,
) -> Plan:
    """Plan the blocks at each height, halved between the widths, and back up.

    There is attention at the lowest height in between, after the encoder's blocks at
    the listed heights, and in the decoder there in every block or in the last.

    Args:
        height: of the images.
        first: channels of the first convolution.
        widths: channels at each height.
        blocks_per_level: residual blocks on the way down; one more on the way up.
        attention_resolutions: heights at which there is attention.
        attend_in_every_block: whether the decoder attends in every block there.
        doubles_below: whether something as wide is joined after each halving.
    """
    encoder, decoder = [], []
    last, width = len(widths) - 1, first
    skips = [first]
    sides = [height >> level for level in range(len(widths))]
    for level, (side, new) in enumerate(zip(sides, widths, strict=True)):
        at, attends = f"{side}x{side}", side in attention_resolutions
        if level:
            encoder.append(PlannedBlock(f"{at}_down", width, width, resample="down"))
            width *= 2 if doubles_below else 1
            skips.append(width)
        for i in range(blocks_per_level):
            encoder.append(PlannedBlock(f"{at}_block{i}", width, new, attends))
            skips.append(new)
            width = new
    for level, (side, new) in reversed(
        list(enumerate(zip(sides, widths, strict=True)))
    ):
        at, attends = f"{side}x{side}", side in attention_resolutions
        if level == last:
            decoder.append(PlannedBlock(f"{at}_in0", width, width, True))
            decoder.append(PlannedBlock(f"{at}_in1", width, width))
        else:
            decoder.append(PlannedBlock(f"{at}_up", width, width, resample="up"))
        for i in range(blocks_per_level + 1):
            here = attends and (attend_in_every_block or i == blocks_per_level)
            reads = width + skips.pop()
            decoder.append(PlannedBlock(f"{at}_block{i}", reads, new, here, joins=True))
            width = new
    return Plan(encoder, decoder)


def concatenate(h: Array, skip: Array) -> Array:
    """Channels of both, those of the way up first."""
    return jnp.concatenate([h, skip], axis=-1)


def follow(
    h: Array,
    steps: Plan,
    block: Callable[[Array, PlannedBlock, str], Array],
    join: Callable[[Array, Array], Array] = concatenate,
) -> Array:
    """Go through all blocks of a plan; block(h, step, name) is one of them."""
    skips = [h]
    for step in steps.encoder:
        h = block(h, step, f"enc_{step.name}")
        skips.append(h)
    for step in steps.decoder:
        if step.joins:
            h = join(h, skips.pop())
        h = block(h, step, f"dec_{step.name}")
    return h


class PlannedUNet(nn.Module):
    """The options that the published U-Nets share.

    Args:
        channels: number at full resolution.
        multipliers: of the channels, after 0, 1, 2, ... halvings.
        blocks_per_level: residual blocks on the way down; one more on the way up.
        attention_resolutions: heights at which there is self-attention.
        dropout: of each channel of each position in a block, in training.
        num_classes: number of classes in cond["label"], where -1 stands for none; 0 for
            a network without classes.
        dtype: dtype of activations and products; "float32" for that of the input.
        attention: implementation, 'xla' or 'cudnn'.
        remat: whether the backward pass computes the inside of every block again.
    """

    channels: Size = 128
    multipliers: FractionalWidths = (1, 2, 2, 2)
    blocks_per_level: Size = 4
    attention_resolutions: Sides = (16,)
    dropout: DropoutRate = 0.1
    num_classes: Count = 0
    dtype: Dtype = "float32"
    attention: AttentionKernel = "xla"
    remat: bool = False

    @property
    def widths(self) -> list[int]:
        """Channels after each halving."""
        return [int(self.channels * m) for m in self.multipliers]

    @property
    def predicts_variance(self) -> bool:
        """Whether the output has channels of variances behind those of x."""
        return False

    @property
    def resampling_sees_time(self) -> bool:
        """Whether the blocks that halve and double are told the noise level."""
        return True

    @nn.nowrap
    def problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the options for data of this shape."""
        if problems := space_problems(shape, IMAGES):
            return problems
        problems = level_problems(shape, self.multipliers, self.attention_resolutions)
        # Only sides that can be halved have a plan.
        divides = not any(p.startswith("multipliers") for p in problems)
        return problems + (self.block_problems(shape) if divides else [])

    @nn.nowrap
    def block_problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the blocks for images of this shape."""
        raise NotImplementedError

    @nn.nowrap
    def planned(
        self,
        height: int,
        first: int,
        *,
        attend_in_every_block: bool = False,
        doubles_below: bool = False,
    ) -> Plan:
        """The blocks for images of this height; see `plan`."""
        return plan(
            height,
            first,
            self.widths,
            self.blocks_per_level,
            self.attention_resolutions,
            attend_in_every_block=attend_in_every_block,
            doubles_below=doubles_below,
        )
