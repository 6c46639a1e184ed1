"""Small pictures: how they are made and told, and the law of a cascade."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from PIL import Image
from scipy import stats

import score_sde as ss
from configs import digits
from score_sde import anatomy, conditions
from score_sde.conditions.low_resolution import (
    blurred,
    level_of_share,
    noised,
    share_of_level,
)
from score_sde.data import DATASETS, SOURCES, centres
from score_sde.measurements import Downsample, Resample, adjoint_error
from score_sde.networks import Network, with_image
from score_sde.oracles import GaussianMixture
from score_sde.resizing import resized
from score_sde.run.build import ConfigError, build
from score_sde.run.sections import complete

KEY = jr.key(0)
DIGITS = DATASETS["digits"]()
ROWS = DIGITS.test[np.arange(60)]
X0 = np.asarray(centres(ROWS["values"], num_levels=17), np.float64)


# Resizes.


@pytest.mark.parametrize("how", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("sides", [(4, 6), (16, 24), (5, 7)], ids=str)
def test_resizes_are_those_of_jax_and_pillow(how, sides):
    x = np.random.default_rng(0).normal(size=(2, 8, 12, 3))
    method = {"nearest": "nearest", "bilinear": "linear", "bicubic": "cubic"}[how]
    expected = jax.image.resize(x, (2, *sides, 3), method, antialias=True)
    for array in (np.asarray, jnp.asarray):
        np.testing.assert_allclose(resized(array(x), sides, how), expected, atol=1e-12)
    if how != "nearest":  # float32 pictures
        image = Image.fromarray(x[0, ..., 0].astype(np.float32))
        pillow = image.resize(sides[::-1], getattr(Image.Resampling, how.upper()))
        np.testing.assert_allclose(expected[0, ..., 0], pillow, atol=1e-5)


def test_means_are_those_of_blocks_and_copies_upwards():
    x = np.random.default_rng(0).normal(size=(2, 6, 9, 1))
    np.testing.assert_allclose(
        resized(x, (2, 3), "mean"), Downsample(3)(jnp.asarray(x)), atol=1e-12
    )
    np.testing.assert_array_equal(
        resized(x, (12, 18), "mean"), x.repeat(2, 1).repeat(2, 2)
    )
    with pytest.raises(ValueError, match="resize is 'cubic'; did you mean 'bicubic'"):
        resized(x, (2, 3), "cubic")


@pytest.mark.parametrize("how", ["mean", "bilinear", "bicubic"])
def test_the_measurement_knows_its_transpose_and_its_singular_values(how):
    small = Resample(2, how)
    assert adjoint_error(small, KEY, (8, 8, 2)) < 1e-12
    dense = jax.jacobian(lambda v: small(v.reshape(1, 4, 8, 1)).reshape(-1))(
        jnp.zeros(32)
    )
    y = jr.normal(KEY, (1, 2, 4, 1))
    found = small.solve(y, 2.0, 0.3).reshape(-1)
    matrix = 2.0 * dense @ dense.T + 0.3 * jnp.eye(8)
    expected = jnp.linalg.solve(matrix, y.reshape(-1))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(small(small.pseudo_inverse(y)), y, atol=1e-9)


# Small pictures of levels.


def test_block_means_of_17_levels_are_65_levels():
    small = SOURCES["smaller"](source={"name": "digits"}, factor=2, num_levels=65)
    assert small.format == ((4, 4, 1), 65, 10)
    exact = ROWS["values"].reshape(-1, 4, 2, 4, 2, 1).sum((2, 4))
    rows = small.test[np.arange(60)]
    np.testing.assert_array_equal(rows["values"], exact)
    np.testing.assert_array_equal(rows["label"], ROWS["label"])
    # And the condition tells just these means.
    condition = conditions.low_resolution(dataset=DIGITS, num_levels=65)
    own = condition.of_examples(ROWS)["image"]
    means = Downsample(2)(jnp.asarray(X0))
    np.testing.assert_allclose(
        own[..., :1], resized(np.asarray(means), (8, 8), "bicubic"), atol=1e-6
    )
    drawn = centres(rows["values"], num_levels=65)
    np.testing.assert_allclose(condition.small.of_drawn(drawn)["image"], own, atol=1e-6)


def test_fewer_levels_are_the_nearest_ones():
    small = SOURCES["smaller"](source={"name": "digits"}, method="bicubic")
    condition = conditions.low_resolution(
        dataset=DIGITS, method="bicubic", num_levels=17
    )
    y = condition.small.of_rows(ROWS)
    exact = np.clip(condition.small.of_images(X0), -16 / 17, 16 / 17)
    assert 0.5 / 17 < np.abs(y - exact).max() <= (1 + 1e-5) / 17
    rows = small.test[np.arange(60)]["values"]
    np.testing.assert_allclose(y, centres(rows, num_levels=17), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"factor": 3}, "factor is 3; it must divide the sides"),
        ({"level": 0.2, "noise": 0.1}, "level is 0.2; it must be at most noise, 0.1"),
        ({"truncated": True}, "truncated is True; it needs a level"),
        ({"quality": 50}, "JPEG needs small pictures in blocks of 8"),
        ({"num_levels": 1}, "num_levels is 1; it must be from 2 to 256"),
        (
            {"noise": 0.2, "level": 0.1, "truncated": True},
            "num_levels must state the levels of the earlier stage",
        ),
    ],
)
def test_what_can_not_be_told_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        conditions.low_resolution(dataset=DIGITS, **options)
    with pytest.raises(ValueError, match="are no images of grey levels"):
        conditions.low_resolution(dataset=DATASETS["rings"]())


@pytest.mark.parametrize("name", ["low_resolution", "coarse"])
def test_a_picture_that_can_not_be_marked_is_never_left_out(name):
    variant = {"low_resolution": "super_resolution", "coarse": "wavelet_details"}[name]
    config = digits.get_config(variant).to_dict()
    build(complete(config))
    config["train"]["condition_dropout"] = 0.1
    if name == "low_resolution":
        config["conditions"][name]["is_marked"] = True
        build(complete(config))
        config["conditions"][name]["is_marked"] = False
    with pytest.raises(ConfigError, match="could not tell a picture that is left out"):
        build(complete(config))


def test_a_jpeg_file_of_it_is_told():
    patches = DATASETS["patches"]()
    rows = patches.test[np.arange(2)]
    clean, file = (
        conditions.low_resolution(dataset=patches, quality=q, is_marked=False)
        for q in (0, 30)
    )
    apart = clean.small.of_rows(rows) - file.small.of_rows(rows)
    assert 0.005 < np.abs(apart).mean() < 0.1
    assert file.of_examples(rows)["image"].shape == (2, 32, 32, 3)


# Augmentation.


def test_levels_of_noise_have_the_stated_law_and_are_told():
    shares = jnp.linspace(0.0, 1.0, 7)
    levels = level_of_share(shares, highest=0.5)
    np.testing.assert_allclose(levels[jnp.asarray([0, -1])], [0.0, 0.5], atol=1e-12)
    back = share_of_level(levels, highest=0.5)
    np.testing.assert_allclose(back, shares, atol=1e-12)
    condition = conditions.low_resolution(
        dataset=DIGITS, noise=0.5, share_without_noise=0.25, resize="nearest"
    )
    rows = DIGITS.train[np.arange(1_400)]
    entry = condition.in_training(KEY, rows)["image"]
    share = np.asarray(entry[:, 0, 0, 1])
    assert np.ptp(entry[..., 1], axis=(1, 2)).max() == 0
    clean = share == 0
    assert abs(clean.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 1_400)
    assert stats.kstest(share[~clean], "uniform").pvalue > 1e-3
    noise = np.asarray(entry - condition.of_examples(rows)["image"])[:, ::2, ::2, 0]
    assert np.abs(noise[clean]).max() == 0
    level = level_of_share(share[~clean], highest=0.5)
    z = noise[~clean] / np.asarray(level)[:, None, None]
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    assert (np.asarray(entry[..., 2]) == 1).all()


def test_sampling_tells_one_draw_of_noise_at_its_level():
    condition = conditions.low_resolution(
        dataset=DIGITS, noise=0.5, level=0.2, resize="bicubic"
    )
    clean = condition.of_examples(ROWS)
    keys = jr.split(KEY, 60)
    noisy = conditions.in_sampling((condition,), keys, clean)
    again = conditions.in_sampling((condition,), keys[7:9], _rows(clean, slice(7, 9)))
    np.testing.assert_allclose(again["image"], noisy["image"][7:9], atol=1e-6)
    # Noise of the small picture, made bigger by the same resize.
    change = noisy["image"][..., 0] - clean["image"][..., 0]
    matrix = np.kron(
        *[resized(np.eye(4)[None, :, :, None], (8, 4), "bicubic")[0, :, :, 0]] * 2
    )
    small = np.linalg.lstsq(matrix, change.reshape(60, -1).T, rcond=None)
    assert float(small[1].max()) < 1e-9  # nothing else is in it
    assert stats.kstest(small[0].ravel() / 0.2, "norm").pvalue > 1e-3
    expected = share_of_level(0.2, highest=0.5)
    np.testing.assert_allclose(noisy["image"][..., 1], expected, rtol=1e-5)
    # Who is told nothing is not told of the noise either.
    nothing = {"image": jnp.zeros_like(clean["image"])}
    still = conditions.in_sampling((condition,), keys, nothing)
    assert not np.asarray(still["image"]).any()


def _rows(cond, rows):
    return {name: a[rows] for name, a in cond.items()}


def test_the_blur_is_a_gaussian_of_three_pixels():
    y = jr.normal(KEY, (2, 6, 6, 1))
    std = jnp.asarray([0.4, 0.6])
    found = blurred(y, std)
    for i, s in enumerate((0.4, 0.6)):
        taps = stats.norm.pdf(np.arange(-1, 2) / s)
        kernel = np.outer(taps, taps) / taps.sum() ** 2
        windows = np.lib.stride_tricks.sliding_window_view(y[i, ..., 0], (3, 3))
        inside = (windows * kernel).sum((2, 3))
        np.testing.assert_allclose(found[i, 1:-1, 1:-1, 0], inside, atol=1e-12)
    flat = jnp.ones((2, 5, 5, 2))
    np.testing.assert_allclose(blurred(flat, std), flat, atol=1e-12)


def test_the_picture_is_never_scaled_with_the_noisy_image():
    seen = []

    def apply(params, x, noise, cond=None, *, dropout_key=None):
        seen.append(x[..., 1:])
        return x

    network = with_image(Network(lambda key: (), apply))
    denoise = ss.make_denoiser(
        lambda x, noise, cond: network.apply((), x, noise, cond), ss.precondition.noise
    )
    condition = conditions.low_resolution(dataset=DIGITS)
    cond = condition.of_examples(ROWS)
    for sigma in (0.01, 1.0, 80.0):
        denoise(jnp.asarray(X0, jnp.float32), sigma, cond)
    for picture in seen:
        np.testing.assert_array_equal(picture, cond["image"])


# A cascade of two dimensions, with the exact law of each stage.

MIXTURE = GaussianMixture(
    jnp.asarray([[-1.0, 0.5], [1.2, 0.8]]),
    jnp.asarray([[[0.3, 0.1], [0.1, 0.2]], [[0.2, -0.1], [-0.1, 0.4]]]),
    jnp.asarray([0.4, 0.6]),
)
SMALL = GaussianMixture(
    MIXTURE.means.mean(1, keepdims=True),
    MIXTURE.covariances.mean((1, 2), keepdims=True),
    MIXTURE.weights,
)
"""The law of (x1 + x2) / 2."""


def second_stage(noise):
    """The exact denoiser of x given y with augmentation noise."""

    def one(x, sigma, y):
        given = anatomy.given_average(MIXTURE, y[0], noise)
        return given.denoise(x[None], sigma)[0]

    def denoise(x, sigma, cond):
        sigma = jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape[:1])
        return jax.vmap(one)(x, sigma, cond)

    return denoise


def drawn(first, noise, count, key=KEY):
    """(y with its noise, x) of a cascade whose first stage has this denoiser."""
    keys = jr.split(key, 3)
    sigmas = ss.grids.karras(96, sigma_min=0.002, sigma_max=1e3)

    def stage(key, denoise, dims, cond=None):
        start = sigmas[0] * jr.normal(key, (count, dims))
        return ss.sample("heun", denoise, start, sigmas, cond=cond).x

    y = stage(keys[0], lambda x, sigma, cond=None: first.denoise(x, sigma), 1)
    y = noised(keys[1], y, jnp.asarray(noise))
    return np.asarray(y[:, 0]), np.asarray(stage(keys[2], second_stage(noise), 2, y))


def moment(law, powers):
    """E[x1^a x2^b] of a mixture of Gaussians, by Gauss-Hermite quadrature: exact."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    total = 0.0
    for mean, covariance, share in zip(*map(np.asarray, law), strict=True):
        root = np.linalg.cholesky(covariance)
        for (i, u), (j, v) in itertools.product(enumerate(nodes), repeat=2):
            x = mean + root @ np.asarray([u, v])
            height = weights[i] * weights[j] / (2 * np.pi)
            total += share * height * x[0] ** powers[0] * x[1] ** powers[1]
    return total


@pytest.mark.slow
def test_a_cascade_has_the_exact_joint_law():
    noise, count = 0.3, 50_000
    y, x = drawn(SMALL, noise, count)
    law = MIXTURE.means, MIXTURE.covariances, MIXTURE.weights
    rest = y - x.mean(1)  # is the noise, whatever x is
    for powers in itertools.product(range(4), repeat=2):
        term = x[:, 0] ** powers[0] * x[:, 1] ** powers[1]
        for factor, expected in (
            (np.ones(count), moment(law, powers)),
            (rest, 0.0),
            (rest**2, noise**2 * moment(law, powers)),
        ):
            error = (term * factor).std() / np.sqrt(count) + 1e-9
            assert abs((term * factor).mean() - expected) < 4 * error, powers


BIASED = GaussianMixture(jnp.asarray([[0.5]]), jnp.asarray([[[0.64]]]), jnp.ones(1))


@pytest.mark.slow
def test_samples_of_a_biased_first_stage_are_as_wrong_as_computed():
    """The error falls with the level of the noise, by the law that is computed."""
    grid = np.linspace(-7, 7, 701)
    first = stats.norm.pdf(grid, 0.5, 0.8)
    for noise in (0.1, 0.4, 1.0):
        known = anatomy.cascade(MIXTURE, first, noise, grid)
        _, x = drawn(BIASED, noise, 20_000)
        average = x.mean(1)
        true = np.asarray(jnp.exp(SMALL.log_prob(jnp.asarray(grid)[:, None], 0.0)))
        for f in (np.cos, lambda a: a, lambda a: a**2):
            expected = np.trapezoid(f(grid) * np.asarray(known.ratio) * true, grid)
            error = f(average).std() / np.sqrt(len(average))
            assert abs(f(average).mean() - expected) < 4 * error + 1e-3


def cascade_with_rough_second_stage(noise, side=161):
    """Total variation of the law of x, on a grid, with a second stage that is Gaussian.

    It knows the mean and the covariance of x given y alone, as a network of little
    capacity would: the more noise is in y, the more it has to know. By quadrature.
    """
    line = np.linspace(-4, 4, side)
    y = np.linspace(-6, 6, 401)
    drawn = stats.norm.pdf(y, 0.5, np.hypot(0.8, noise))
    points = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)

    @jax.jit
    @jax.vmap
    def given(y):
        law = anatomy.given_average(MIXTURE, y, noise)
        mean = law.weights @ law.means
        apart = law.means - mean[None]
        spread = jnp.einsum("k,ki,kj->ij", law.weights, apart, apart)
        spread += jnp.einsum("k,kij->ij", law.weights, law.covariances)
        rough = GaussianMixture(mean[None], spread[None], jnp.ones(1))
        return jnp.exp(rough.log_prob(jnp.asarray(points), 0.0))

    found = np.trapezoid(drawn[:, None] * np.asarray(given(jnp.asarray(y))), y, axis=0)
    true = np.exp(np.asarray(MIXTURE.log_prob(jnp.asarray(points), 0.0)))
    return 0.5 * np.abs(found - true).sum() * (line[1] - line[0]) ** 2


def test_the_error_over_the_level_falls_and_rises():
    """Little noise hides nothing of the first stage; much leaves all to the second."""
    levels = (0.05, 0.3, 0.6, 1.2, 2.4)
    errors = [cascade_with_rough_second_stage(noise, side=81) for noise in levels]
    best = int(np.argmin(errors))
    assert 0 < best < len(levels) - 1
    assert errors[: best + 1] == sorted(errors[: best + 1], reverse=True)
    assert errors[best:] == sorted(errors[best:])
    assert errors[best] < 0.9 * min(errors[0], errors[-1])
