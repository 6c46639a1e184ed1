"""ADM, the U-Net of guided-diffusion (Dhariwal and Nichol 2021, sec. 3).

With options for those of improved-diffusion (Nichol and Dhariwal 2021) and EDM.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
from jax.nn.initializers import normal, zeros

from score_sde.networks.blocks import (
    add_told_later,
    positional_embedding,
    with_divergence,
)
from score_sde.networks.cond import beside_image
from score_sde.networks.embeddings import conditions
from score_sde.networks.fitting import head_problems
from score_sde.networks.options import Count, DropoutRate, FractionalWidths, Sides, Size
from score_sde.networks.unet_blocks import (
    Layers,
    Style,
    checkpointed,
    conv_resample,
    norm_problems,
)
from score_sde.networks.unet_plan import Plan, PlannedBlock, PlannedUNet, follow
from score_sde.types import Array


class ADM(PlannedUNet):
    """F(x, noise) for images in [-1, 1], [batch, height, width, channels].

    The noise is the step of a chain of 1,000, or EDM's log(sigma) / 4. With
    `learn_sigma` the output has twice the channels of x: the noise, then what the
    variance of each step of the chain is interpolated by. A picture, cond["image"], is
    seen beside x.

    Attention follows each block where there is any. More arguments are those of
    `PlannedUNet`.

    Args:
        channels_per_head: channels of a head of the attention; 0 for `num_heads` heads.
        num_heads: heads of the attention if channels_per_head is 0.
        num_heads_upsample: of those, the heads on the way up; 0 for as many.
        use_new_attention_order: False where a head's queries, keys and values follow
            each other in the file, as in all files of these programs but one.
        scale_shift: whether the embedding scales and shifts behind the second norm of
            a block; it is added before it otherwise (use_scale_shift_norm).
        resblock_updown: whether blocks halve and double; convolutions do otherwise.
        min_group: channels in a group of a norm at least; 1 for always 32 groups, as in
            the programs before EDM.
        learn_sigma: whether the output has channels of variances.
        vector_dims: size of cond["vector"]; 0 for none.
        augment_dims: size of cond["augment"], which may be absent and is then zero; 0
            for none.
    """

    reads: ClassVar = frozenset(
        {"label", "vector", "augment", "ratio", "guidance", "divergence", "image"}
    )

    channels: Size = 192
    multipliers: FractionalWidths = (1, 2, 3, 4)
    blocks_per_level: Size = 3
    attention_resolutions: Sides = (32, 16, 8)
    dropout: DropoutRate = 0.0
    channels_per_head: Count = 64
    num_heads: Size = 1
    num_heads_upsample: Count = 0
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

        def apply(h: Array, step: PlannedBlock, name: str) -> Array:
            if step.resample and not self.resblock_updown:
                return conv_resample(layers, h, step, name, padding=((1, 1), (1, 1)))
            heads = self.heads(step.width, up=step.joins) if step.attends else 0
            made = block(style, step.width, heads, step.resample, name=name)
            return made(h, embedding, deterministic)

        h = beside_image(x, cond)
        h = h if self.dtype == "float32" else h.astype(self.dtype)
        h = layers.conv(h, self.widths[0], "in_conv")
        h = follow(h, self.plan(x.shape[1]), apply)
        h = nn.silu(layers.norm(h, "out_norm"))
        width = x.shape[-1] * (2 if self.learn_sigma else 1)
        out = layers.conv(h, width, "out_conv", last=True).astype(x.dtype)
        return with_divergence(out, h, cond)

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
        h = add_told_later(h, cond)
        return nn.silu(h)

    @property
    def style(self) -> Style:
        """The style that all blocks have in common."""
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
    def resampling_sees_time(self) -> bool:
        """Whether residual blocks halve and double; convolutions are told nothing."""
        return self.resblock_updown

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
        if self.num_heads_upsample and not self.channels_per_head:
            up = {s.width for s in steps.decoder if s.attends and s.joins}
            heads += head_problems("num_heads_upsample", self.num_heads_upsample, up)
        elif self.num_heads_upsample:
            heads.append(
                f"num_heads_upsample is {self.num_heads_upsample}; it counts where "
                f"channels_per_head is 0, and that is {self.channels_per_head}"
            )
        return problems + heads

    @nn.nowrap
    def heads(self, width: int, *, up: bool = False) -> int:
        """Heads of the attention among this many channels, perhaps on the way up."""
        if self.channels_per_head:
            return width // self.channels_per_head
        return (up and self.num_heads_upsample) or self.num_heads

    @nn.nowrap
    def plan(self, height: int) -> Plan:
        """The blocks for images of this height."""
        return self.planned(height, self.widths[0], attend_in_every_block=True)
