import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from PIL import Image

from score_sde.data import (
    DATASETS,
    batch_at,
    dequantise,
    flip_at_random,
    to_levels,
)
from score_sde.evaluation.plots import save_samples

sweep = pytest.mark.parametrize("name", DATASETS)


@sweep
def test_data_sets_are_what_they_say(name):
    data = DATASETS[name]()
    assert data.name == name
    assert len(data.train) > len(data.test) > 0
    assert data.train.values.shape[1:] == data.test.values.shape[1:] == data.shape
    for split in ("train", "test"):
        examples = data.split(split)
        values, labels = examples.values, examples.labels
        if data.num_levels is None:
            assert np.abs(values).max() <= 1.1
        else:
            assert values.dtype == np.uint8
            assert values.max() == data.num_levels - 1
        if data.num_classes:
            assert len(labels) == len(values)
            assert set(labels) == set(range(data.num_classes))
    with pytest.raises(ValueError, match=r"unknown split 'eval'; choose from"):
        data.split("eval")


@sweep
def test_splits_are_disjoint(name):
    data = DATASETS[name]()
    train = {row.tobytes() for row in data.train.values}
    shared = sum(row.tobytes() in train for row in data.test.values)
    # scikit-learn's digits hold one pair of equal images; nothing else coincides.
    assert shared <= (1 if name == "digits" else 0)


def test_the_digits_split_is_fixed():
    digits = DATASETS["digits"]()
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.test.labels[:10].tolist() == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5]
    assert np.bincount(digits.test.labels).tolist() == [
        27,
        35,
        36,
        29,
        30,
        40,
        44,
        39,
        39,
        41,
    ]


def test_test_patches_come_from_another_region():
    """No row of pixels of a test patch is in any training patch."""
    patches = DATASETS["patches"]()
    rows = {row.tobytes() for image in patches.train.values[::13] for row in image}
    found = sum(row.tobytes() in rows for image in patches.test.values for row in image)
    assert found < 0.01 * 32 * len(patches.test)  # flat sky may repeat


@pytest.mark.parametrize("num_levels", [17, 256])
def test_dequantised_values_fill_their_bins_and_return(num_levels, key):
    levels = np.arange(num_levels, dtype=np.uint8)
    values = np.tile(levels[None], (2_000, 1))
    x = dequantise(key, jnp.asarray(values), num_levels=num_levels)
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(to_levels(x, num_levels=num_levels), values)
    x, low = np.asarray(x), (2.0 * levels / num_levels - 1).astype(np.float32)
    assert (x >= low[None]).all()
    assert (x < low[None] + np.float32(2 / num_levels) + 1e-7).all()
    # Uniform in the bin: mean 1/2, standard error 0.0065 from 2,000 draws.
    inside = (x - low[None]) * num_levels / 2
    assert np.abs(inside.mean(0) - 0.5).max() < 5 * 0.0065


def test_values_outside_the_range_are_clipped():
    levels = to_levels(jnp.asarray([[-3.0, 1.0, 2.0]]), num_levels=17)
    assert levels.tolist() == [[0, 16, 16]]


def test_points_pass_unchanged(key):
    points = np.asarray([[0.5, -0.25]], np.float32)
    np.testing.assert_array_equal(dequantise(key, points, num_levels=None), points)
    np.testing.assert_array_equal(to_levels(points, num_levels=None), points)


def test_dequantisation_noise_does_not_depend_on_the_batch(key):
    values = jnp.zeros((5, 3), jnp.uint8)
    whole = dequantise(key, values, num_levels=17)
    np.testing.assert_array_equal(dequantise(key, values[:2], num_levels=17), whole[:2])


def test_half_of_the_images_are_mirrored(key):
    images = jr.normal(key, (1_000, 2, 3, 1))
    flipped = flip_at_random(jr.key(1), images)
    is_flipped = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    assert (is_flipped | (flipped == images).all((1, 2, 3))).all()
    assert 420 < is_flipped.sum() < 580  # 500 +- 5 standard errors


@pytest.mark.parametrize("batch_size", [64, 1000, 3000])
def test_every_epoch_shows_every_example_once(batch_size):
    digits = DATASETS["digits"]()
    num_steps = -(-2 * 1437 // batch_size)
    rows = np.concatenate(
        [
            batch_at(digits, seed=0, step=step, batch_size=batch_size)["values"]
            for step in range(num_steps)
        ]
    )

    def counted(images):
        return sorted(image.tobytes() for image in images)

    everything = counted(digits.train.values)
    assert counted(rows[:1437]) == everything
    assert counted(rows[1437:2874]) == everything
    assert (rows[:1437] != rows[1437:2874]).any()


def test_a_batch_is_a_function_of_seed_and_step():
    digits = DATASETS["digits"]()
    options = {"step": 30, "batch_size": 64}
    first, again, other = (batch_at(digits, seed=s, **options) for s in (0, 0, 1))
    np.testing.assert_array_equal(first["values"], again["values"])
    assert (first["values"] != other["values"]).any()
    assert first["label"].shape == (64,)


@sweep
def test_pictures_are_written(name, tmp_path):
    data = DATASETS[name]()
    path = tmp_path / "deep" / "samples.png"
    save_samples(path, data.test.values[:10], num_levels=data.num_levels)
    with Image.open(path) as file:
        picture = np.asarray(file)
    assert min(picture.shape[:2]) > 200
    assert picture.std() > 10  # not blank
    assert [p.name for p in path.parent.iterdir()] == ["samples.png"]


def test_the_picture_of_an_image_is_the_image(tmp_path):
    image = np.asarray([[0, 16], [8, 4]], np.uint8)[None, ..., None]
    save_samples(tmp_path / "one.png", image, num_levels=17)
    with Image.open(tmp_path / "one.png") as file:
        picture = np.asarray(file)
    cell = picture.shape[0] // 4
    shown = picture[cell // 2 :: cell, cell // 2 :: cell][1:3, 1:3]
    np.testing.assert_array_equal(shown, np.round(255.0 * image[0, ..., 0] / 16))
