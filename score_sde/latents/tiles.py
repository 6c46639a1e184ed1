"""Decoding in tiles, for latents whose images do not fit into memory at once.

Tiles overlap, and are blended along lines: an autoencoder with group norms, or with
attention, decodes a part otherwise than the whole, and a sharp edge would be seen.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from score_sde.types import Array

Decode = Callable[[Array], Array]
"""Latents [batch, h, w, c] -> images whose sides are multiples of theirs."""


def starts(side: int, tile: int, overlap: int) -> list[int]:
    """Place tiles that cover a side and overlap by so much at least.

    Raises:
        ValueError: if a tile is no larger than the overlap.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap is {overlap}; it must be >= 0 and below {tile}.")
    if side <= tile:
        return [0]
    return [*range(0, side - tile, tile - overlap), side - tile]


def ramp(length: int, overlap: int, *, is_first: bool, is_last: bool) -> np.ndarray:
    """Weights along a side of a tile: rising and falling over the overlap.

    Args:
        length: of the side.
        overlap: pixels over which they rise.
        is_first: whether the tile begins where the image does.
        is_last: whether it ends there.
    """
    place = np.arange(length) + 0.5
    rising = np.full(length, np.inf) if is_first else place / max(overlap, 1)
    falling = np.full(length, np.inf) if is_last else place[::-1] / max(overlap, 1)
    return np.minimum(1.0, np.minimum(rising, falling))


def decode_in_tiles(decode: Decode, z: Array, *, tile: int, overlap: int) -> Array:
    """Decode tile by tile, and blend where they overlap.

    Args:
        decode: of any sides.
        z: latents, [batch, height, width, channels].
        tile: the longest side that is decoded at once, in latents.
        overlap: of neighbouring tiles, in latents.

    Raises:
        ValueError: if a tile is no larger than the overlap.
    """
    rows, columns = (starts(side, tile, overlap) for side in z.shape[1:3])
    if len(rows) == len(columns) == 1:
        return decode(z)
    total: Array | None = None
    weight = np.zeros((0, 0))
    for top in rows:
        for left in columns:
            made = decode(z[:, top : top + tile, left : left + tile])
            factor = made.shape[1] // min(tile, z.shape[1])
            if total is None:
                sides = [side * factor for side in z.shape[1:3]]
                total = jnp.zeros((len(z), *sides, made.shape[-1]), made.dtype)
                weight = np.zeros(sides)
            outer = np.outer(
                *(
                    ramp(
                        length,
                        factor * overlap,
                        is_first=start == 0,
                        is_last=start == all_starts[-1],
                    )
                    for length, start, all_starts in (
                        (made.shape[1], top, rows),
                        (made.shape[2], left, columns),
                    )
                )
            )
            place = tuple(
                slice(factor * start, factor * start + length)
                for start, length in ((top, made.shape[1]), (left, made.shape[2]))
            )
            part = made * jnp.asarray(outer, made.dtype)[None, :, :, None]
            total = total.at[:, *place].add(part)
            weight[place] += outer
    assert total is not None
    return total / jnp.asarray(weight, total.dtype)[None, :, :, None]
