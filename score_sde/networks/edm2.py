"""EDM2's magnitude-preserving U-Net (Karras et al. 2024, config G and app. B)."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from score_sde.arrays import as_labels
from score_sde.networks.attention import attend
from score_sde.networks.blocks import Dropout, add_told_later, with_divergence
from score_sde.networks.cond import require_condition
from score_sde.networks.fitting import head_problems
from score_sde.networks.magnitude_preserving import (
    MPConv,
    MPFourier,
    mp_cat,
    mp_silu,
    mp_sum,
    normalise,
    normalise_weights,
)
from score_sde.networks.network import part_of_network
from score_sde.networks.options import (
    Balance,
    DropoutRate,
    FilterTaps,
    Sides,
    Size,
    Widths,
)
from score_sde.networks.resampling import filter_down, filter_up
from score_sde.networks.unet_plan import Plan, PlannedBlock, PlannedUNet, follow
from score_sde.rules import Positive
from score_sde.types import Array


class Block(nn.Module):
    """Residual block, attention, and a bound on the outcome.

    A block of the encoder brings the input to its width before the residual branch;
    one of the decoder, with `decodes`, does so after it.
    """

    width: int
    decodes: bool
    num_heads: int
    """Heads of the attention; 0 for a block without it."""
    resample: str
    resample_filter: tuple[float, ...]
    dropout: float
    res_balance: float
    attn_balance: float
    clip: float
    attention: str

    @nn.compact
    def __call__(self, x: Array, embedding: Array, deterministic: bool) -> Array:
        if self.resample:
            resample = {"down": filter_down, "up": filter_up}[self.resample]
            x = resample(x, self.resample_filter)
        rewidth = MPConv(self.width, name="conv_skip")
        changes = x.shape[-1] != self.width
        if not self.decodes:
            x = normalise(rewidth(x) if changes else x, (-1,))
        h = MPConv(self.width, 3, name="conv_res0")(mp_silu(x))
        gain = self.param("emb_gain", nn.initializers.zeros, (), jnp.float32)
        scale = 1 + MPConv(self.width, name="emb_linear")(embedding, gain)
        h = mp_silu(h * scale[:, None, None, :].astype(h.dtype))
        h = Dropout(self.dropout)(h, deterministic)
        h = MPConv(self.width, 3, name="conv_res1")(h)
        if self.decodes and changes:
            x = rewidth(x)
        x = mp_sum(x, h, self.res_balance)
        if self.num_heads:
            x = mp_sum(x, self._attention(x), self.attn_balance)
        return jnp.clip(x, -self.clip, self.clip)

    def _attention(self, x: Array) -> Array:
        """Attention of all positions, with queries, keys and values of unit size."""
        batch, height, width, channels = x.shape
        split = (batch, height * width, self.num_heads, channels // self.num_heads, 3)
        qkv = MPConv(3 * channels, name="attn_qkv")(x).reshape(split)
        q, k, v = jnp.moveaxis(normalise(qkv, (3,)), -1, 0)
        h = attend(q, k, v, implementation=self.attention).reshape(x.shape)
        return MPConv(channels, name="attn_proj")(h)


class ToldLater(nn.Module):
    """Embedding of a number that students alone are told: zero before training.

    `blocks.ToldLater` without biases; its gain begins at 0, as that of the output.
    """

    size: int

    @nn.compact
    def __call__(self, waves: Array) -> Array:
        waves = math.sqrt(2) * waves  # of unit size
        gain = self.param("gain", nn.initializers.zeros, (), jnp.float32)
        h = mp_silu(MPConv(self.size, name="linear0")(waves))
        return MPConv(self.size, name="linear1")(h, gain)


class DivergenceHead(nn.Module):
    """`blocks.DivergenceHead` without biases; its gain begins at 0."""

    size: int = 128

    @nn.compact
    def __call__(self, features: Array) -> Array:
        gain = self.param("gain", nn.initializers.zeros, (), jnp.float32)
        h = mp_silu(MPConv(self.size, name="linear0")(features)).mean((1, 2))
        return MPConv(1, name="linear1")(h, gain)


class LogVariance(nn.Module):
    """u(noise), the learned log of the loss at a noise level (eq. 21): [batch]."""

    size: int

    @nn.compact
    def __call__(self, noise: Array) -> Array:
        return MPConv(1, name="linear")(MPFourier(self.size, name="fourier")(noise))[
            :, 0
        ]


class EDM2(PlannedUNet):
    """F(x, noise) for images, with noise = log(sigma) / 4; all weights normalised.

    Attention follows each block where there is any. More arguments are those of
    `PlannedUNet`.

    Args:
        channels_per_head: channels of a head of the attention.
        label_balance: share of the class in the sum with the noise.
        concat_balance: share of the skip where it is joined.
        res_balance: share of the residual branch in the sum with its input.
        attn_balance: share of the attention in the sum with its input.
        resample_filter: taps of the filter with which images are halved and doubled.
        clip_act: bound on the output of every block.
        logvar_channels: features of the learned log-variance.
    """

    reads: ClassVar = frozenset({"label", "ratio", "guidance", "divergence"})

    channels: Size = 192
    multipliers: Widths = (1, 2, 3, 4)
    blocks_per_level: Size = 3
    attention_resolutions: Sides = (16, 8)
    dropout: DropoutRate = 0.0
    channels_per_head: Size = 64
    label_balance: Balance = 0.5
    concat_balance: Balance = 0.5
    res_balance: Balance = 0.3
    attn_balance: Balance = 0.3
    resample_filter: FilterTaps = (1, 1)
    clip_act: Annotated[float, Positive] = 256.0
    logvar_channels: Size = 128

    @nn.compact
    def __call__(
        self, x: Array, noise: Array, cond: Any = None, deterministic: bool = True
    ) -> Array:
        if self.is_initializing():
            LogVariance(self.logvar_channels, name="logvar")(noise)
        embedding = self._embedding(noise, cond)
        height = x.shape[1]

        def apply(h: Array, step: PlannedBlock, name: str) -> Array:
            return self._block(step, name)(h, embedding, deterministic)

        def join(h: Array, skip: Array) -> Array:
            return mp_cat(h, skip, self.concat_balance)

        h = x if self.dtype == "float32" else x.astype(self.dtype)
        h = jnp.concatenate([h, jnp.ones_like(h[..., :1])], axis=-1)
        h = MPConv(self.widths[0], 3, name=f"enc_{height}x{height}_conv")(h)
        h = follow(h, self.plan(height), apply, join)
        gain = self.param("out_gain", nn.initializers.zeros, (), jnp.float32)
        out = MPConv(x.shape[-1], 3, name="out_conv")(h, gain).astype(x.dtype)
        return with_divergence(out, h, cond, DivergenceHead)

    def _embedding(self, noise: Array, cond: Any) -> Array:
        size = max(self.widths)
        features = MPFourier(self.widths[0], name="emb_fourier")(noise)
        h = MPConv(size, name="emb_noise")(features)
        if self.num_classes:
            require_condition(cond, "label")
            labels = as_labels(cond["label"], self.num_classes)
            classes = jax.nn.one_hot(labels, self.num_classes, dtype=h.dtype)
            label = MPConv(size, name="emb_label")(
                classes * math.sqrt(self.num_classes)
            )
            h = mp_sum(h, label, self.label_balance)
        h = add_told_later(h, cond, ToldLater)
        return mp_silu(h)

    def _block(self, step: PlannedBlock, name: str) -> Block:
        make = nn.remat(Block, static_argnums=(3,)) if self.remat else Block
        return make(
            step.width,
            name.startswith("dec_"),
            step.width // self.channels_per_head if step.attends else 0,
            step.resample,
            tuple(self.resample_filter),
            self.dropout,
            self.res_balance,
            self.attn_balance,
            self.clip_act,
            self.attention,
            name=name,
        )

    @nn.nowrap
    def block_problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the blocks for images of this shape."""
        widths = self.plan(shape[0]).attending_widths
        return head_problems("channels_per_head", self.channels_per_head, widths)

    @nn.nowrap
    def plan(self, height: int) -> Plan:
        """The blocks for images of this height."""
        return self.planned(height, self.widths[0], attend_in_every_block=True)

    @nn.nowrap
    @part_of_network
    def project(self, params: Any) -> Any:
        """Parameters with their weights normalised, as training keeps them."""
        return normalise_weights(params)

    @nn.nowrap
    @part_of_network
    def log_variance(self, params: Any, noise: Array) -> Any:
        """Evaluate u(noise), the learned log of the loss: [batch]."""
        head = LogVariance(self.logvar_channels, parent=None)
        return head.apply({"params": params["logvar"]}, noise)
