import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from score_sde.data.augment import NUM_LABELS, Warp, augment, warp_image


def warp_of(**fields):
    """A warp of these fields, zero in the others."""
    zeros = dict.fromkeys(Warp._fields, 0.0) | {"shift": (0.0, 0.0)}
    return Warp(**{k: jnp.asarray(v, jnp.float32) for k, v in (zeros | fields).items()})


NONE = warp_of()


def smooth(size=32):
    """A picture of waves that no resampling blurs, [size, size, 2]."""
    x, y = np.meshgrid(*2 * [np.arange(size) / size], indexing="xy")
    first = np.sin(2 * np.pi * x) + np.cos(4 * np.pi * y + 1)
    return jnp.asarray(np.stack([first, np.cos(2 * np.pi * (x + y))], -1), jnp.float32)


warped = jax.jit(warp_image)


def inner(image, margin=6):
    return np.asarray(image)[margin:-margin, margin:-margin]


def test_nothing_is_nothing_and_flips_are_exact():
    image = smooth()
    np.testing.assert_array_equal(warped(image, NONE), image)
    np.testing.assert_array_equal(NONE.labels(), np.zeros(NUM_LABELS))
    flipped = warp_of(flip_x=1)
    mirrored = warped(image, flipped)
    np.testing.assert_array_equal(mirrored, image[:, ::-1])
    mirrored = warped(image, warp_of(flip_y=1))
    np.testing.assert_array_equal(mirrored, image[::-1])


# The image is read between the pixels of one twice as fine: a wave of 16 pixels loses
# 1 - cos(pi / 32) < 0.5 % of its height to each linear interpolation.
CLOSE = dict(atol=0.03)


def test_a_quarter_turn_is_one():
    turned = warped(smooth(), warp_of(angle=np.pi / 2))
    # From right to down, which is clockwise.
    np.testing.assert_allclose(inner(turned), inner(np.rot90(smooth(), -1)), **CLOSE)


def test_a_shift_moves_right_and_down():
    # 0.125 of 32 pixels is 4 of them.
    moved = warped(smooth(), warp_of(shift=(1.0, -0.5)))
    expected = np.roll(smooth(), (-2, 4), axis=(0, 1))
    np.testing.assert_allclose(inner(moved), inner(expected), **CLOSE)


def test_sizes_are_powers_of_two():
    size, steps = 32, np.log2(1.5) / 0.2
    position = (np.arange(size) - 15.5) / 1.5 + 15.5
    x, y = np.meshgrid(position, position)
    grown = warped(smooth(), warp_of(scale=steps))
    waves = np.sin(2 * np.pi * x / size) + np.cos(4 * np.pi * y / size + 1)
    np.testing.assert_allclose(grown[..., 0], waves, **CLOSE)
    # Along the diagonal by 1.5, across it by its inverse.
    direction = np.pi / 4
    pulled = warped(smooth(), warp_of(stretch=steps, direction=direction))
    a, b = np.meshgrid(np.arange(size) - 15.5, np.arange(size) - 15.5)
    along = (a + b) / 1.5 + 31
    np.testing.assert_allclose(
        inner(pulled[..., 1:], 9)[..., 0],
        inner(np.cos(2 * np.pi * along / size), 9),
        **CLOSE,
    )


def test_labels_tell_all_transforms_apart_and_do_not_jump():
    warp = warp_of(
        flip_x=1, scale=0.3, angle=0.5, stretch=-2, direction=0.4, shift=(0, 1)
    )
    expected = [1, 0, 0.3, np.cos(0.5) - 1, np.sin(0.5)]
    expected += [-2 * np.cos(0.4), -2 * np.sin(0.4), 0, 1]
    np.testing.assert_allclose(warp.labels(), expected, rtol=1e-6)
    ends = [warp_of(angle=a).labels() for a in (-np.pi, np.pi)]
    np.testing.assert_allclose(*ends, atol=1e-6)


@pytest.mark.slow
def test_each_image_has_its_own_and_those_without_labels_are_untouched():
    images = jnp.tile(smooth(8)[None], (400, 1, 1, 1))
    run = jax.jit(augment, static_argnames="probability")
    out, labels = run(jr.key(0), images, probability=0.12)
    assert labels.shape == (400, NUM_LABELS)
    untouched = (labels == 0).all(1)
    np.testing.assert_array_equal(out[untouched], images[untouched])
    assert (out[~untouched] != images[~untouched]).any((1, 2, 3)).all()
    # Shares of 400, within four standard errors.
    for column, share in (
        (0, 0.5),
        (1, 0.06),
        (2, 0.12),
        (3, 0.12),
        (5, 0.12),
        (7, 0.12),
    ):
        error = np.sqrt(share * (1 - share) / 400)
        assert (labels[:, column] != 0).mean() == pytest.approx(share, abs=4 * error)
    # A function of (key, index): a part of the batch is drawn alike.
    part, _ = run(jr.key(0), images[:3], probability=0.12)
    np.testing.assert_allclose(part, out[:3], atol=1e-5)
