"""The orthonormal Haar wavelet of images, one step and as a pyramid.

Of every block of 2 x 2 pixels, separately in each channel,

    coarse   = (x00 + x01 + x10 + x11) / 2
    details  = (x00 - x01 + x10 - x11) / 2    left less right
               (x00 + x01 - x10 - x11) / 2    top less bottom
               (x00 - x01 - x10 + x11) / 2    one diagonal less the other

The map is orthogonal and its own inverse on blocks, so that densities need no factor:
log p(x) = log p(coarse) + log p(details given coarse), exactly.

Source: Haar 1910; as the stages of a likelihood: Li et al. 2025 (arXiv 2501.06999).
"""

from __future__ import annotations

from typing import Any, NamedTuple

SIGNS = ((1, 1, 1, 1), (1, -1, 1, -1), (1, 1, -1, -1), (1, -1, -1, 1))
"""Signs of the pixels 00, 01, 10, 11 in the coarse value and in the three details."""


class Pyramid(NamedTuple):
    """An image as a coarse one and the details that lead up to it."""

    coarse: Any
    """[batch, height / 2^depth, width / 2^depth, channels]."""
    details: tuple[Any, ...]
    """Those of each step, the finest first, [batch, height / 2^k, width / 2^k,
    3 channels]; the three kinds follow each other, each with all channels."""


def haar(x: Any) -> tuple[Any, Any]:
    """One step of the wavelet: (coarse, details), in NumPy or JAX.

    Args:
        x: images, [batch, height, width, channels].

    Raises: ValueError for sides that are not even.
    """
    batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        raise ValueError(f"sides {(height, width)} must be even for a wavelet step.")
    xp = x.__array_namespace__()
    blocks = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    pixels = [blocks[:, :, i, :, j] for i in (0, 1) for j in (0, 1)]
    coarse, *details = (_signed(pixels, signs) for signs in SIGNS)
    return coarse, xp.concatenate(details, axis=-1)


def inverse_haar(coarse: Any, details: Any) -> Any:
    """The images of which `haar` makes these: [batch, height, width, channels].

    Args:
        coarse: [batch, height / 2, width / 2, channels].
        details: [batch, height / 2, width / 2, 3 channels].

    Raises: ValueError for shapes that don't belong together.
    """
    batch, rows, columns, channels = coarse.shape
    xp, pixels = coarse.__array_namespace__(), pixels_of_blocks(coarse, details)
    blocks = pixels.reshape(batch, rows, columns, 2, 2, channels)
    blocks = xp.moveaxis(blocks, 3, 2)  # [batch, rows, 2, columns, 2, channels]
    return blocks.reshape(batch, 2 * rows, 2 * columns, channels)


def pixels_of_blocks(coarse: Any, details: Any) -> Any:
    """The pixels of each block as channels, 00, 01, 10 and 11, each with all colours.

    The arguments are those of `inverse_haar`.
    """
    batch, rows, columns, channels = coarse.shape
    if details.shape != (batch, rows, columns, 3 * channels):
        raise ValueError(
            f"details have the shape {details.shape}; beside a coarse image of shape "
            f"{coarse.shape} it must be {(batch, rows, columns, 3 * channels)}."
        )
    xp = coarse.__array_namespace__()
    kinds = [details[..., k * channels : (k + 1) * channels] for k in range(3)]
    # The matrix of signs is symmetric: each pixel has the signs of its own row.
    return xp.concatenate([_signed([coarse, *kinds], signs) for signs in SIGNS], -1)


def pyramid(x: Any, depth: int) -> Pyramid:
    """Repeat the step on the coarse part: `depth` sets of details, and what is left.

    Raises: ValueError for a depth below 1, and sides that can't be halved so often.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}; it must be at least 1.")
    details = []
    for _ in range(depth):
        x, fine = haar(x)
        details.append(fine)
    return Pyramid(x, tuple(details))


def inverse_pyramid(parts: Pyramid) -> Any:
    """The images of which `pyramid` makes these."""
    x = parts.coarse
    for fine in reversed(parts.details):
        x = inverse_haar(x, fine)
    return x


def _signed(parts: list[Any], signs: tuple[int, ...]) -> Any:
    """Half the sum of four arrays with these signs."""
    total = parts[0]
    for part, sign in zip(parts[1:], signs[1:], strict=True):
        total = total + part if sign > 0 else total - part
    return total / 2
