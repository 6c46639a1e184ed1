"""ADM's classifier of noisy images (Dhariwal and Nichol 2021, sec. 4 and app. J)."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from score_sde.networks.adm import ADM
from score_sde.networks.attention import attend, split_heads
from score_sde.networks.blocks import positional_embedding
from score_sde.networks.options import Sides, Size, Widths
from score_sde.networks.unet_blocks import Block, Layers
from score_sde.networks.unet_plan import PlannedBlock
from score_sde.types import Array


class AttentionPool(nn.Module):
    """The mean of all positions asks them for what it needs: [batch, size]."""

    layers: Layers
    size: int
    num_heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height * width, channels)
        x = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)
        init = nn.initializers.normal(channels**-0.5)
        shape = (channels, x.shape[1])
        places = self.param("positional_embedding", init, shape, jnp.float32)
        x = x + places.T[None].astype(x.dtype)
        qkv = self.layers.dense(x, 3 * channels, "qkv_proj")
        q, k, v = split_heads(qkv, self.num_heads)
        h = attend(q[:, :1], k, v).reshape(batch, channels)
        return self.layers.dense(h, self.size, "c_proj")


class ADMClassifier(nn.Module):
    """Logits, [batch, num_classes], of images in [-1, 1] and the step of a chain.

    The encoder and the middle of ADM, of which the arguments are, with attention that
    pools. Its gradient in x leads samples to a class.
    """

    reads: ClassVar[frozenset[str]] = frozenset()
    predicts_variance: ClassVar = False

    num_classes: Size = 1000
    channels: Size = 128
    multipliers: Widths = (1, 2, 3, 4)
    blocks_per_level: Size = 4
    attention_resolutions: Sides = (32, 16, 8)
    channels_per_head: Size = 64
    min_group: Size = 1

    @nn.compact
    def __call__(self, x: Array, noise: Array) -> Array:
        adm, steps = self.adm, self.steps(x.shape[1])
        style, layers, size = adm.style, adm.style.layers, 4 * self.channels
        h = positional_embedding(noise, self.channels)
        h = nn.silu(layers.dense(h, size, "map_layer0"))
        embedding = nn.silu(layers.dense(h, size, "map_layer1"))
        h = layers.conv(x, adm.widths[0], "in_conv")
        for name, step in steps.items():
            heads = adm.heads(step.width) if step.attends else 0
            block = Block(style, step.width, heads, step.resample, name=name)
            h = block(h, embedding, True)
        h = nn.silu(layers.norm(h, "out_norm"))
        heads = adm.heads(h.shape[-1])
        return AttentionPool(layers, self.num_classes, heads, name="out_pool")(h)

    @nn.nowrap
    def problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the options for data of this shape."""
        return self.adm.problems(shape)

    @property
    def adm(self) -> ADM:
        """The network whose first half it has."""
        return ADM(
            channels=self.channels,
            multipliers=self.multipliers,
            blocks_per_level=self.blocks_per_level,
            attention_resolutions=self.attention_resolutions,
            channels_per_head=self.channels_per_head,
            use_new_attention_order=False,
            min_group=self.min_group,
            parent=None,
        )

    @nn.nowrap
    def steps(self, height: int) -> dict[str, PlannedBlock]:
        """The blocks for images of this height, by their names here."""
        plan = self.adm.plan(height)
        encoder = {f"enc_{step.name}": step for step in plan.encoder}
        middle = {f"dec_{step.name}": step for step in plan.decoder[:2]}
        return encoder | middle
