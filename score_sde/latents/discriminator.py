"""The patch discriminator: real or not, for each patch (Isola et al. 2017).

Convolutions of side 4: stride 2 to 64 channels, then halving, doubling the channels up
to eight times, one with stride 1, and a last one to one logit for each patch.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde.arrays import mean_over_batch, place_in_batch
from score_sde.networks.layers import GroupNorm
from score_sde.networks.network import STATISTICS
from score_sde.types import Array, Key

EPS = 1e-5
MOMENTUM = 0.1
"""Share of a batch in the running moments of batch norm."""
GROUPS = 8
"""Of group norm, where there is no batch norm."""
NORMS = ("group", "batch")
SLOPE = 0.2
"""Of the leaky ReLU below 0."""

_kernels = nn.initializers.normal(0.02)


def _scales(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
    return 1 + 0.02 * jr.normal(key, shape, dtype)


class Moments(nn.Module):
    """Running mean and variance of each channel: statistics, see `codebook`."""

    channels: int

    def setup(self) -> None:
        """Make them, 0 and 1."""
        size = (self.channels,)
        self.mean = self.param("mean", nn.initializers.zeros, size, jnp.float32)
        self.var = self.param("var", nn.initializers.ones, size, jnp.float32)


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015) over the whole batch, as it is cut.

    In training the moments of the batch are used, and what the running ones become is
    sown into "moments"; otherwise the running ones are.
    """

    training: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size = x.shape[-1:]
        scale = self.param("scale", _scales, size, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, size, jnp.float32)
        running = Moments(*size, name=STATISTICS)
        mean, var = running.mean, running.var
        if self.training:
            axes = tuple(range(x.ndim - 1))
            mean = mean_over_batch(x.mean(axes))
            squares = (x - mean.reshape((1,) * len(axes) + size)) ** 2
            var = mean_over_batch(squares.mean(axes))
            count = place_in_batch(len(x)).total * (x[0].size // x.shape[-1])
            moved = {"mean": mean, "var": var * (count / (count - 1))}
            old = {"mean": running.mean, "var": running.var}
            new = jax.tree.map(_moved, old, moved)
            self.sow("moments", "new", new, reduce_fn=lambda _, b: b)
        row = (1,) * (x.ndim - 1) + size
        mean, var, scale, bias = (
            a.astype(x.dtype).reshape(row) for a in (mean, var, scale, bias)
        )
        return (x - mean) * jax.lax.rsqrt(var + EPS) * scale + bias


def _moved(old: Array, found: Array) -> Array:
    found = jax.lax.stop_gradient(found).astype(old.dtype)
    return (1 - MOMENTUM) * old + MOMENTUM * found


class PatchDiscriminator(nn.Module):
    """Images [batch, height, width, channels] to logits of patches [batch, h, w].

    Args:
        channels: of the first layer.
        layers: of stride 2.
        norm: 'group', which knows no other example, or 'batch', as published.
        image_channels: of the images.
    """

    channels: int = 64
    layers: int = 3
    norm: str = "group"
    image_channels: int = 3

    @nn.compact
    def __call__(self, x: Array, training: bool = True) -> Array:
        h = self._conv(x, self.channels, 2, 0, has_bias=True)
        h, number = nn.leaky_relu(h, SLOPE), 2
        for layer in range(1, self.layers + 1):
            width = self.channels * min(2**layer, 8)
            stride = 2 if layer < self.layers else 1
            has_bias = self.norm != "batch"
            h = self._conv(h, width, stride, number, has_bias=has_bias)
            name = f"main_{number + 1}"
            if self.norm == "batch":
                h = BatchNorm(training, name=name)(h)
            else:
                h = GroupNorm(GROUPS, EPS, name=name)(h)
            h, number = nn.leaky_relu(h, SLOPE), number + 3
        return self._conv(h, 1, 1, number, has_bias=True)[..., 0]

    def _conv(
        self, x: Array, channels: int, stride: int, number: int, *, has_bias: bool
    ) -> Array:
        convolve = nn.Conv(
            channels,
            (4, 4),
            strides=(stride, stride),
            padding=((1, 1), (1, 1)),
            use_bias=has_bias,
            kernel_init=_kernels,
            name=f"main_{number}",
        )
        return convolve(x)

    @property
    def smallest_side(self) -> int:
        """The smallest side of an image of which there is a patch."""
        side = 1
        for stride in (1, 1, *[2] * self.layers):
            side = (side - 1) * stride + 2
        return side

    def shapes(self) -> Any:
        """The shapes of its parameters."""
        side = self.smallest_side + 1
        x = jax.ShapeDtypeStruct((2, side, side, self.image_channels), jnp.float32)
        made = jax.eval_shape(lambda x: self.init(jr.key(0), x), x)
        return made["params"]

    def logits(self, params: Any, x: Array) -> tuple[Array, Any]:
        """Logits of a batch in training, and the parameters with moved moments."""
        found, extra = self.apply({"params": params}, x, mutable=["moments"])
        for name, new in extra.get("moments", {}).items():
            params = {**params, name: {**params[name], STATISTICS: new["new"]}}
        return found, params


def statistics_of(params: Any) -> Any:
    """The running moments among a discriminator's parameters, by layer."""
    return {n: p[STATISTICS] for n, p in params.items() if STATISTICS in p}
