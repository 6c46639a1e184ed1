"""The Inception network of FID: `inception-2015-12-05` (Szegedy et al. 2015).

Input (x - 128) / 128 of images of 299 x 299. It is not torchvision's Inception: its
average pools leave padding out of the mean, and the last block pools by the maximum.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from score_sde.networks.features.parts import FixedNorm, conv
from score_sde.types import Array

EPS = 1e-3
NUM_LOGITS = 1008
SPATIAL_CHANNELS = 7
"""How many channels the spatial features of sFID have (Nash et al. 2021)."""

_max_pool = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))


def _mean_pool(x: Array) -> Array:
    """Means of 3 x 3 pixels, of those that are there at the border."""
    total = nn.pooling.pool(x, 0.0, jax.lax.add, (3, 3), (1, 1), "SAME")
    rows, columns = (3.0 - np.eye(n)[0] - np.eye(n)[-1] for n in x.shape[1:3])
    count = np.outer(rows, columns).astype(np.float32)
    return total / count[None, :, :, None]


class _Conv(nn.Module):
    """Convolution, batch normalisation, ReLU; padded to keep the sides, or not."""

    channels: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    padded: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        padding = "SAME" if self.padded else "VALID"
        layer = conv(
            self.channels, self.kernel, self.stride, padding=padding, name="conv"
        )
        return nn.relu(FixedNorm(EPS, name="bn")(layer(x)))


def _chain(x: Array, name: str, *layers: tuple[int, int | tuple[int, int]]) -> Array:
    """Convolutions one after another: (channels, kernel) each."""
    for i, (channels, kernel) in enumerate(layers):
        x = _Conv(channels, kernel, name=f"{name}_{i + 1}")(x)
    return x


class _BlockA(nn.Module):
    pool_channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return jnp.concatenate(
            [
                _Conv(64, name="branch1x1")(x),
                _chain(x, "branch5x5", (48, 1), (64, 5)),
                _chain(x, "branch3x3dbl", (64, 1), (96, 3), (96, 3)),
                _Conv(self.pool_channels, name="branch_pool")(_mean_pool(x)),
            ],
            axis=-1,
        )


class _BlockB(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = _chain(x, "branch3x3dbl", (64, 1), (96, 3))
        return jnp.concatenate(
            [
                _Conv(384, 3, 2, padded=False, name="branch3x3")(x),
                _Conv(96, 3, 2, padded=False, name="branch3x3dbl_3")(h),
                _max_pool(x),
            ],
            axis=-1,
        )


class _BlockC(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """The block, and its branch of 1x1."""
        c, row, column = self.channels, (1, 7), (7, 1)
        first = _Conv(192, name="branch1x1")(x)
        double = ((c, 1), (c, column), (c, row), (c, column), (192, row))
        rest = [
            _chain(x, "branch7x7", (c, 1), (c, row), (192, column)),
            _chain(x, "branch7x7dbl", *double),
            _Conv(192, name="branch_pool")(_mean_pool(x)),
        ]
        return jnp.concatenate([first, *rest], axis=-1), first


class _BlockD(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        a = _chain(x, "branch3x3", (192, 1))
        b = _chain(x, "branch7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)))
        return jnp.concatenate(
            [
                _Conv(320, 3, 2, padded=False, name="branch3x3_2")(a),
                _Conv(192, 3, 2, padded=False, name="branch7x7x3_4")(b),
                _max_pool(x),
            ],
            axis=-1,
        )


class _BlockE(nn.Module):
    last: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def split(h: Array, name: str) -> list[Array]:
            sides = (("a", (1, 3)), ("b", (3, 1)))
            return [_Conv(384, side, name=name + end)(h) for end, side in sides]

        pool = _mean_pool(x)
        if self.last:
            pool = nn.max_pool(x, (3, 3), (1, 1), "SAME")
        return jnp.concatenate(
            [
                _Conv(320, name="branch1x1")(x),
                *split(_chain(x, "branch3x3", (384, 1)), "branch3x3_2"),
                *split(_chain(x, "branch3x3dbl", (448, 1), (384, 3)), "branch3x3dbl_3"),
                _Conv(192, name="branch_pool")(pool),
            ],
            axis=-1,
        )


class Inception(nn.Module):
    """Outputs "64", "192", "768", "2048", "logits", "logits_unbiased" and "spatial".

    The first four are means over positions, [batch, channels]; "spatial" is that of
    sFID, [batch, 17 * 17 * 7]; "logits_unbiased" lack the bias, as inception scores do.
    """

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        out = {}
        h = _Conv(32, 3, 2, padded=False, name="Conv2d_1a_3x3")(x)
        h = _Conv(32, 3, padded=False, name="Conv2d_2a_3x3")(h)
        h = _max_pool(_Conv(64, 3, name="Conv2d_2b_3x3")(h))
        out["64"] = h.mean((1, 2))
        h = _Conv(80, padded=False, name="Conv2d_3b_1x1")(h)
        h = _max_pool(_Conv(192, 3, padded=False, name="Conv2d_4a_3x3")(h))
        out["192"] = h.mean((1, 2))
        for letter, channels in (("b", 32), ("c", 64), ("d", 64)):
            h = _BlockA(channels, name=f"Mixed_5{letter}")(h)
        h = _BlockB(name="Mixed_6a")(h)
        for letter, channels in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            h, branch = _BlockC(channels, name=f"Mixed_6{letter}")(h)
            if letter == "d":
                spatial = branch[..., :SPATIAL_CHANNELS]
                out["spatial"] = spatial.reshape(len(x), -1)
        out["768"] = h.mean((1, 2))
        h = _BlockD(name="Mixed_7a")(h)
        h = _BlockE(last=False, name="Mixed_7b")(h)
        h = _BlockE(last=True, name="Mixed_7c")(h)
        features = out["2048"] = h.mean((1, 2))
        kernel_shape = (features.shape[-1], NUM_LOGITS)
        fc = _Linear(kernel_shape, name="fc")
        out["logits_unbiased"], out["logits"] = fc(features)
        return out


class _Linear(nn.Module):
    """A linear map without and with its bias."""

    shape: tuple[int, int]

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        kernel = self.param("kernel", nn.initializers.zeros, self.shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, self.shape[1:], jnp.float32)
        product = x @ kernel
        return product, product + bias[None]
