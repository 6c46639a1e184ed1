"""The U-Net of DDPM as score_sde has it (Ho et al. 2020, app. B)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import flax.linen as nn

from score_sde.networks.blocks import add_told_later, with_divergence
from score_sde.networks.embeddings import conditions, sine_embedding
from score_sde.networks.options import Count, Size
from score_sde.networks.unet_blocks import (
    Layers,
    Style,
    checkpointed,
    conv_resample,
    norm_problems,
)
from score_sde.networks.unet_plan import Plan, PlannedBlock, PlannedUNet, follow
from score_sde.types import Array


class DDPMUNet(PlannedUNet):
    """F(x, noise) for images in [-1, 1], [batch, height, width, channels].

    The noise is the step of a chain of 1,000, or 999 t. Arguments are those of
    `PlannedUNet`, and vector_dims, the size of cond["vector"]; channels are multiples
    of 32, since norms always have 32 groups.
    """

    reads: ClassVar = frozenset({"label", "vector", "ratio", "guidance", "divergence"})

    blocks_per_level: Size = 2
    vector_dims: Count = 0

    @nn.compact
    def __call__(
        self, x: Array, noise: Array, cond: Any = None, deterministic: bool = True
    ) -> Array:
        style, layers = self.style, self.style.layers
        embedding = self._embedding(noise, cond)
        block = checkpointed(self.remat)

        def apply(h: Array, step: PlannedBlock, name: str) -> Array:
            if step.resample:
                return conv_resample(layers, h, step, name, padding="SAME")
            made = block(style, step.width, 1 if step.attends else 0, name=name)
            return made(h, embedding, deterministic)

        h = x if self.dtype == "float32" else x.astype(self.dtype)
        h = layers.conv(h, self.channels, "in_conv")
        h = follow(h, self.plan(x.shape[1]), apply)
        h = nn.silu(layers.norm(h, "out_norm"))
        out = layers.conv(h, x.shape[-1], "out_conv", last=True).astype(x.dtype)
        return with_divergence(out, h, cond)

    def _embedding(self, noise: Array, cond: Any) -> Array:
        layers, size = self.style.layers._replace(dtype="float32"), 4 * self.channels
        h = layers.dense(sine_embedding(noise, self.channels), size, "map_layer0")
        h = layers.dense(nn.silu(h), size, "map_layer1")
        sources = conditions(
            cond,
            noise,
            num_classes=self.num_classes,
            vector_dims=self.vector_dims,
            augment_dims=0,
        )
        for name, source in sources.items():
            h = h + layers.dense(source, size, f"map_{name}")
        h = add_told_later(h, cond)
        return nn.silu(h)

    @property
    def resampling_sees_time(self) -> bool:
        """False: convolutions halve and double, and are told nothing."""
        return False

    @property
    def style(self) -> Style:
        """The style that all blocks have in common."""
        layers = Layers("xavier", norm_eps=1e-6, min_group=1, dtype=self.dtype)
        return Style(
            layers,
            self.dropout,
            self.attention,
            skip_gain=math.sqrt(0.1),
            qkv_gain=math.sqrt(0.2),
        )

    @nn.nowrap
    def block_problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the blocks for images of this shape."""
        return norm_problems(self.style.layers, self.plan(shape[0]))

    @nn.nowrap
    def plan(self, height: int) -> Plan:
        """The blocks for images of this height."""
        return self.planned(height, self.channels)
