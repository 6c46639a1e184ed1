"""Tiled decoding: exact where a decoder is local, smooth where it is not."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from score_sde.latents.tiles import decode_in_tiles, ramp, starts
from score_sde.networks.blocks import upsample

Z = jr.normal(jr.key(0), (2, 13, 9, 3), jnp.float64)


def test_tiles_cover_a_side_and_overlap():
    assert starts(8, 8, 2) == [0]
    assert starts(13, 6, 2) == [0, 4, 7]
    for side in range(5, 40):
        found = starts(side, 5, 2)
        assert found[-1] + 5 == max(side, 5)
        gaps = np.diff(found)
        assert (gaps <= 3).all()
    with pytest.raises(ValueError, match="overlap is 5"):
        starts(8, 5, 5)


def test_weights_of_two_tiles_add_up_along_their_overlap():
    left = ramp(6, 4, is_first=True, is_last=False)
    right = ramp(6, 4, is_first=False, is_last=True)
    np.testing.assert_allclose(left[2:] + right[:4], 1)
    assert (left[:2] == 1).all()


@pytest.mark.parametrize("tile", [4, 6, 20])
def test_a_pointwise_decoder_gives_the_same_in_tiles(tile):
    kernel = jr.normal(jr.key(1), (3, 2), jnp.float64)

    def decode(z):
        return upsample(jnp.tanh(z @ kernel))

    found = decode_in_tiles(decode, Z, tile=tile, overlap=2)
    np.testing.assert_allclose(found, decode(Z), rtol=1e-12)


def test_a_decoder_that_sees_its_neighbours_differs_at_the_seams_alone():
    kernel = jr.normal(jr.key(1), (3, 3, 3, 1), jnp.float64)

    def decode(z):
        numbers = ("NHWC", "HWIO", "NHWC")
        h = upsample(z)
        return jax.lax.conv_general_dilated(
            h, kernel, (1, 1), "SAME", dimension_numbers=numbers
        )

    whole = decode(Z)
    error = jnp.abs(decode_in_tiles(decode, Z, tile=6, overlap=3) - whole)
    sharp = jnp.abs(decode_in_tiles(decode, Z, tile=6, overlap=0) - whole)
    # A pixel in 1 of 3 latents is at an edge of a tile, and counts a sixth there.
    assert error.max() < 0.2 * sharp.max()
    assert (error == 0).mean() > 0.3
    assert error[:, :4, :4].max() < 1e-12
