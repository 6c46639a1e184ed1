"""ADM, the U-Net of guided-diffusion (Dhariwal and Nichol 2021, sec. 3).

With options for those of improved-diffusion (Nichol and Dhariwal 2021) and EDM.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import numpy as np
from jax.nn.initializers import normal, zeros

from score_sde.networks import unet_tensors as names
from score_sde.networks.blocks import positional_embedding
from score_sde.networks.embeddings import conditions
from score_sde.networks.fitting import head_problems
from score_sde.networks.options import Count, DropoutRate, FractionalWidths, Sides, Size
from score_sde.networks.tensors import CONV, Tensor, linear
from score_sde.networks.unet_blocks import (
    Layers,
    Style,
    checkpointed,
    conv_resample,
    norm_problems,
)
from score_sde.networks.unet_plan import Plan, PlannedUNet, Step, follow
from score_sde.schedules import iddpm_levels
from score_sde.types import Array


class ADM(PlannedUNet):
    """F(x, noise) for images in [-1, 1], [batch, height, width, channels].

    The noise is the step of a chain of 1,000, or EDM's log(sigma) / 4. With
    `learn_sigma` the output has twice the channels of x: the noise, then what the
    variance of each step of the chain is interpolated by.

    Args, beside those of `PlannedUNet`, whose attention here follows each block:
        channels_per_head: of the attention; 0 for `num_heads` heads of any size.
        use_new_attention_order: False where a head's queries, keys and values follow
            each other in the file, as in all files of these programs but one.
        scale_shift: whether the embedding scales and shifts behind the second norm of
            a block; it is added before it otherwise (use_scale_shift_norm).
        resblock_updown: whether blocks halve and double; convolutions do otherwise.
        min_group: channels in a group of a norm at least; 1 for always 32 groups, as in
            the programs before EDM.
        vector_dims: of cond["vector"]; augment_dims: of cond["augment"], which may be
            absent and is then zero; 0 for none.
    """

    reads: ClassVar = frozenset({"label", "vector", "augment"})

    channels: Size = 192
    multipliers: FractionalWidths = (1, 2, 3, 4)
    blocks_per_level: Size = 3
    attention_resolutions: Sides = (32, 16, 8)
    dropout: DropoutRate = 0.0
    channels_per_head: Count = 64
    num_heads: Size = 1
    use_new_attention_order: bool = True
    scale_shift: bool = True
    resblock_updown: bool = True
    learn_sigma: bool = False
    min_group: Size = 4
    vector_dims: Count = 0
    augment_dims: Count = 0

    @nn.compact
    def __call__(
        self, x: Array, noise: Array, cond: Any = None, deterministic: bool = True
    ) -> Array:
        style, layers = self.style, self.style.layers
        embedding = self._embedding(noise, cond)
        block = checkpointed(self.remat)

        def apply(h: Array, step: Step, name: str) -> Array:
            if step.resample and not self.resblock_updown:
                return conv_resample(layers, h, step, name, padding=((1, 1), (1, 1)))
            heads = self.heads(step.width) if step.attends else 0
            made = block(style, step.width, heads, step.resample, name=name)
            return made(h, embedding, deterministic)

        h = x if self.dtype == "float32" else x.astype(self.dtype)
        h = layers.conv(h, self.widths[0], "in_conv")
        h = follow(h, self.plan(x.shape[1]), apply)
        h = nn.silu(layers.norm(h, "out_norm"))
        width = x.shape[-1] * (2 if self.learn_sigma else 1)
        return layers.conv(h, width, "out_conv", last=True).astype(x.dtype)

    def _embedding(self, noise: Array, cond: Any) -> Array:
        layers, size = self.style.layers._replace(dtype="float32"), 4 * self.channels
        sources = conditions(
            cond,
            noise,
            num_classes=self.num_classes,
            vector_dims=self.vector_dims,
            augment_dims=self.augment_dims,
        )
        h = positional_embedding(noise, self.channels)
        if "augment" in sources:
            augment = nn.Dense(
                self.channels, use_bias=False, kernel_init=zeros, name="map_augment"
            )
            h = h + augment(sources["augment"])
        h = nn.silu(layers.dense(h, size, "map_layer0"))
        h = layers.dense(h, size, "map_layer1")
        if "label" in sources:
            # A row of a table for each class, and nothing for none.
            table = nn.Dense(
                size, use_bias=False, kernel_init=normal(1.0), name="map_label"
            )
            h = h + table(sources["label"])
        if "vector" in sources:
            h = h + layers.dense(sources["vector"], size, "map_vector")
        return nn.silu(h)

    @property
    def style(self) -> Style:
        """Of all blocks."""
        layers = Layers(
            "torch", norm_eps=1e-5, min_group=self.min_group, dtype=self.dtype
        )
        return Style(
            layers,
            self.dropout,
            self.attention,
            scale_shift=self.scale_shift,
            by_head=not self.use_new_attention_order,
        )

    @property
    def predicts_variance(self) -> bool:
        """Whether the output has channels of variances."""
        return self.learn_sigma

    @nn.nowrap
    def block_problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the blocks for images of this shape."""
        steps, option = self.plan(shape[0]), "channels_per_head"
        if not self.channels_per_head:
            option = "num_heads"
        problems = norm_problems(self.style.layers, steps)
        heads = head_problems(option, getattr(self, option), steps.attending_widths)
        return problems + heads

    @nn.nowrap
    def heads(self, width: int) -> int:
        """Heads of the attention among this many channels."""
        size = self.channels_per_head
        return width // size if size else self.num_heads

    @nn.nowrap
    def plan(self, height: int) -> Plan:
        """The blocks for images of this height."""
        return self.planned(height, self.widths[0], attend_in_every_block=True)


def edm_tensors(module: ADM, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """The entries of NVlabs/edm's DhariwalUNet in its preconditioner; or none."""
    if module.vector_dims or not module.resblock_updown:
        return ()
    steps = module.plan(shape[0])
    full = f"{shape[0]}x{shape[0]}"
    entries: list[Tensor] = []
    if module.learn_sigma:  # its preconditioner is that of a discrete chain
        levels = iddpm_levels(1000, 0.001, 0.008).astype(np.float32)
        entries.append(Tensor("u", (), value=levels))
    if module.augment_dims:
        entries.append(names.matrix("model.map_augment", "map_augment"))
    entries += linear("model.map_layer0", "map_layer0")
    entries += linear("model.map_layer1", "map_layer1")
    if module.num_classes:
        entries.append(names.matrix("model.map_label", "map_label"))
    entries += linear(f"model.enc.{full}_conv", "in_conv", layout=CONV)
    for part, blocks in (("enc", steps.encoder), ("dec", steps.decoder)):
        for step in blocks:
            there, here = f"model.{part}.{step.name}", f"{part}_{step.name}"
            heads = module.heads(step.width)
            entries += names.edm_block(there, here, step, module.style, heads)
    entries += names.out("model.out_norm", "model.out_conv")
    return tuple(entries)


def guided_tensors(module: ADM, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """The entries of guided-diffusion's and improved-diffusion's U-Net; or none."""
    if module.vector_dims or module.augment_dims:
        return ()
    steps = module.plan(shape[0])
    entries = linear("time_embed.0", "map_layer0")
    entries += linear("time_embed.2", "map_layer1")
    if module.num_classes:
        entries.append(Tensor("label_emb.weight", ("map_label", "kernel")))
    entries += linear("input_blocks.0.0", "in_conv", layout=CONV)

    def block(there: str, part: str, step: Step, place: int = 0) -> list[Tensor]:
        """The layers of a step, which are numbered from `place` on."""
        here = f"{part}_{step.name}"
        if step.resample and not module.resblock_updown:
            layer = "op" if step.resample == "down" else "conv"
            return linear(f"{there}.{place}.{layer}", here, layout=CONV)
        made = names.guided_block(f"{there}.{place}", here, step, module.style)
        if step.attends:
            made += names.guided_attention(f"{there}.{place + 1}", here)
        return made

    for i, step in enumerate(steps.encoder):
        entries += block(f"input_blocks.{i + 1}", "enc", step)
    entries += block("middle_block", "dec", steps.decoder[0])
    entries += block("middle_block", "dec", steps.decoder[1], place=2)
    number, place = -1, 0
    for step in steps.decoder[2:]:
        # What doubles is the last layer of the block before it.
        number, place = (number, place) if step.resample else (number + 1, 0)
        entries += block(f"output_blocks.{number}", "dec", step, place)
        place += 2 if step.attends else 1
    return (*entries, *names.out("out.0", "out.2"))
