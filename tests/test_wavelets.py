"""The wavelet: orthogonal, and its stages' densities multiply to that of the image."""

import copy
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.special import erf

import score_sde as ss
from experiments import launch
from score_sde import data, elbo, wavelets
from score_sde.data import DATASETS, SOURCES
from score_sde.measurements import Downsample
from score_sde.networks import Network, over_pixels, with_image
from score_sde.run import build
from score_sde.run.likelihoods import bound_examples, score_examples
from score_sde.run.model import trained_part, training_points
from score_sde.run.sections import complete
from score_sde.types import UserError

KEY = jr.key(0)
ROOT = Path(__file__).parents[1] / "configs"
DIGITS = {"name": "digits"}


def flattened(x, depth):
    """All coefficients of images in a row, [batch, numbers]."""
    parts = wavelets.pyramid(x, depth)
    return jnp.concatenate([a.reshape(len(x), -1) for a in (parts[0], *parts[1])], 1)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_pyramid_is_orthogonal(depth):
    matrix = jax.jacobian(lambda v: flattened(v.reshape(1, 4, 8, 2), depth)[0])(
        jnp.zeros(64)
    )
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(64), atol=1e-12)
    np.testing.assert_allclose(jnp.linalg.slogdet(matrix)[1], 0, atol=1e-12)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_the_inverse_undoes_it(array):
    x = array(np.random.default_rng(0).normal(size=(3, 8, 4, 2)))
    parts = wavelets.pyramid(x, 2)
    assert [a.shape for a in parts.details] == [(3, 4, 2, 6), (3, 2, 1, 6)]
    np.testing.assert_allclose(wavelets.inverse_pyramid(parts), x, atol=1e-12)
    coarse, details = wavelets.haar(x)
    np.testing.assert_allclose(coarse / 2, Downsample(2)(jnp.asarray(x)), atol=1e-12)
    pixels = wavelets.pixels_of_blocks(coarse, details)
    np.testing.assert_allclose(pixels[..., 2:4], x[:, ::2, 1::2], atol=1e-12)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"sides \(3, 4\) must be even"):
        wavelets.haar(np.zeros((1, 3, 4, 1)))
    with pytest.raises(ValueError, match=r"must be \(1, 2, 2, 3\)"):
        wavelets.inverse_haar(np.zeros((1, 2, 2, 1)), np.zeros((1, 2, 2, 1)))
    with pytest.raises(ValueError, match="depth is 0; it must be at least 1"):
        wavelets.pyramid(np.zeros((1, 4, 4, 1)), 0)


# Parts of images as data.


def parts_of(depth):
    """The data of all stages of a pyramid of digits, the coarsest first."""

    def made(part, depth):
        return SOURCES["wavelet"](source=DIGITS, part=part, depth=depth)

    return [made("coarse", depth)] + [made("details", d) for d in range(depth, 0, -1)]


@pytest.mark.parametrize("depth", [1, 2])
def test_parts_join_to_the_image(depth):
    images, stages = DATASETS["digits"](), parts_of(depth)
    x = data.centres(images.test.values[:5], num_levels=17)
    picture = None
    for dataset in stages:
        part = dataset.part
        taken = part.take(x)
        assert taken.shape == (5, *dataset.shape)
        if part.told is not None:
            np.testing.assert_allclose(part.told(x), picture, atol=1e-6)
        picture = part.join(picture, taken)
        assert picture.shape == (5, *dataset.shown.shape)
    np.testing.assert_allclose(picture, x, atol=1e-6)
    # All numbers of an image, none twice; the map to them keeps volumes.
    assert sum(np.prod(dataset.shape) for dataset in stages) == 64
    side = np.asarray(stages[0].units.scale)
    coarse = wavelets.pyramid(x, depth).coarse
    np.testing.assert_allclose(side * stages[0].part.take(x), coarse, atol=1e-6)


def test_wrong_parts_are_refused():
    with pytest.raises(ValueError, match="part is 'fine'; choose from"):
        SOURCES["wavelet"](source=DIGITS, part="fine", depth=1)
    with pytest.raises(ValueError, match="factor is 16; it must divide the sides"):
        SOURCES["wavelet"](source=DIGITS, part="coarse", depth=4)
    with pytest.raises(ValueError, match="are no images of grey levels"):
        SOURCES["wavelet"](source={"name": "rings"}, part="coarse", depth=1)
    with pytest.raises(
        UserError, match=r"source.name is 'digit'; did you mean 'digits"
    ):
        SOURCES["wavelet"](source={"name": "digit"}, part="coarse")
    with pytest.raises(UserError, match="source.size: no such field"):
        SOURCES["wavelet"](source={"name": "digits", "size": 3}, part="coarse")


# Networks of details.


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("asked", [{}, {"divergence": None}])
def test_a_network_of_details_works_on_the_pixels_that_they_make(depth, asked):
    part = SOURCES["wavelet"](source=DIGITS, part="details", depth=depth).part
    x0 = data.centres(DATASETS["digits"]().test.values[:3], num_levels=17)
    coarse, details = part.told(x0), part.take(x0)
    seen = []

    def apply(params, x, noise, cond=None, *, dropout_key=None):
        assert cond == (asked or None)
        seen.append(x)
        return jnp.concatenate([x, x[..., :1]] if asked else [x], -1)

    beside = with_image(Network(lambda key: (), apply))
    network = over_pixels(beside, side=2**depth, scale=lambda: 2.0)
    out = network.apply((), 2 * details, jnp.ones(3), {"image": coarse, **asked})
    np.testing.assert_allclose(out[..., :3], 2 * details, atol=1e-5)
    # Pixels, or means over blocks of half the side, at twice the scale of the block.
    pixels, scale = part.join(coarse, details), 2 ** (depth - 1) / 0.5
    np.testing.assert_allclose(seen[0][..., :1] / scale, pixels, atol=1e-5)
    blocks = np.repeat(np.repeat(coarse, 2, 1), 2, 2)
    np.testing.assert_allclose(seen[0][..., 1:] / scale, blocks, atol=1e-5)
    if asked:
        means = wavelets.haar(seen[0][..., :1])[0] / 2
        np.testing.assert_allclose(out[..., 3:], means, atol=1e-5)


def test_a_network_of_details_is_asked_what_pixels_it_takes():
    config = complete(copy.deepcopy(launch.load_config("digits:wavelet_details", ROOT)))
    config["network"]["attention_resolutions"] = (8,)
    build.build(config)  # the side of the pixels
    config["network"]["multipliers"] = (1, 1, 1, 1, 1)
    with pytest.raises(build.ConfigError, match="8"):
        build.build(config)


# Gaussian images: the densities of the stages, in closed form and by their flows.


def gaussian_image():
    """Mean and covariance of images of 4 x 4 pixels that are alike where they touch."""
    rows, columns = np.divmod(np.arange(16), 4)
    apart = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    covariance = 0.5 * np.exp(-apart / 1.5) + 0.02 * np.eye(16)
    return 0.3 * np.sin(np.arange(16.0)), covariance


@pytest.mark.slow
def test_log_densities_of_the_stages_add_up_to_that_of_the_image():
    """By the flow of each stage, against the closed form of the whole.

    The coarse stage is in the units of `data.wavelet`, means over blocks.
    """
    sde, (mean, covariance) = ss.VP(t_min=1e-5), gaussian_image()
    matrix = np.asarray(
        jax.jacobian(lambda v: flattened(v.reshape(1, 4, 4, 1), 1)[0])(jnp.zeros(16))
    )
    units = np.concatenate([np.full(4, 0.5), np.ones(12)])[:, None] * matrix
    m, c = units @ mean, units @ covariance @ units.T
    whole = ss.oracles.Gaussian(jnp.asarray(mean), jnp.asarray(covariance))
    coarse = ss.oracles.Gaussian(jnp.asarray(m[:4]), jnp.asarray(c[:4, :4]))
    gain = c[4:, :4] @ np.linalg.inv(c[:4, :4])
    left = ss.oracles.Gaussian(jnp.zeros(12), jnp.asarray(c[4:, 4:] - gain @ c[:4, 4:]))

    def expected(coarse):
        return jnp.asarray(m[4:])[None] + (coarse - m[:4][None]) @ gain.T

    def details(x, sigma, cond):
        shift = expected(cond)
        return shift + left.denoise(x - shift, sigma)

    # N(0, 1) at the end of VP is 1e-4 nats a dimension off: the exact laws there.
    end, alpha = sde.t_max, sde.alpha(sde.t_max)

    def first_end(z):
        return coarse.log_prob(z, end, sde=sde)

    def second_end(z):
        return left.log_prob(z - alpha * expected(parts[:, :4]), end, sde=sde)

    x = whole.sample(KEY, 4)
    parts = x @ units.T

    def flow(denoise, part, prior, cond=None):
        out = ss.log_prob(
            jnp.exp(sde.log_alpha(sde.t_min)) * part,
            sde=sde,
            score=ss.make_score(denoise, sde),
            divergence="exact",
            rtol=1e-7,
            atol=1e-7,
            prior=prior,
            cond=cond,
        )
        assert out.success.all()
        return out.nats + part.shape[1] * sde.log_alpha(sde.t_min)

    dataset = SOURCES["wavelet"](
        source={"name": "absent", "shape": (4, 4, 1)}, part="coarse"
    )
    found = flow(coarse.denoise, parts[:, :4], first_end) - dataset.log_scale
    found += flow(details, parts[:, 4:], second_end, parts[:, :4])
    # The flow's density is that at t_min, where sigma is 1e-3.
    exact = whole.log_prob(x, float(sde.sigma(sde.t_min)))
    np.testing.assert_allclose(found, exact, atol=16 * 1e-5)


# Images of a law that is known: each of a few digits as likely as the others.

NUM_DIGITS = 20
SIX_SIGMA = 1 / (17 * 3)
"""The noise of a pixel at which the bins of its levels are six sigma wide."""


def stage_of(part, **fields):
    """The experiment of a stage, on centres."""
    config = complete(copy.deepcopy(launch.load_config(f"digits:wavelet_{part}", ROOT)))
    assert config["data"]["points"] == "centres"
    config["sde"]["t_min"] = SIX_SIGMA / (2 if part == "coarse" else 1)
    config["likelihood"] |= {"divergence": "exact", "bound_draws": 512, **fields}
    return build.build(config)


def few_digits():
    values = DATASETS["digits"]().test.values[:NUM_DIGITS]
    return values, data.centres(jnp.asarray(values), num_levels=17)


def exact_denoiser(model, images):
    """Of a part of these images, told the coarse image with the noise of its stage."""
    atoms = model.part.take(images)

    def denoise(x, sigma, cond=None):
        def misfit(own, seen, std):
            apart = (seen[:, None] - own[None]) / std
            return -0.5 * jnp.sum(apart**2, axis=(2, 3, 4))

        levels = jnp.broadcast_to(sigma, x.shape[:1])
        fits = misfit(atoms, x, levels.reshape(-1, 1, 1, 1, 1))
        if cond:
            coarse = model.part.told(images)
            fits += misfit(coarse, cond["image"], SIX_SIGMA / 2)
        return jnp.tensordot(jax.nn.softmax(fits), atoms, 1)

    return lambda params: denoise


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_stages_on_centres_add_up_to_the_probability_of_the_levels():
    """By the flows, and by the bounds: what is lost is what truncation costs."""
    values, images = few_digits()
    keys = jr.split(KEY, NUM_DIGITS)
    flow, bound = 0.0, 0.0
    for part in ("coarse", "details"):
        stage = stage_of(part, rtol=1e-4, atol=1e-4)
        given = (stage.model, stage.likelihood, {}, keys, keys, values, None)
        own = exact_denoiser(stage.model, images)
        out = score_examples(*given, jnp.ones((), jnp.float32), flow=own)
        assert out.success.all()
        flow += out.nats - stage.dataset.log_scale
        bound += bound_examples(*given, of_chain=False, flow=own).nats
    truncated = 64 * np.log(erf(3 / np.sqrt(2)))
    lost = flow - (truncated - np.log(NUM_DIGITS))
    # In float32, over 64 numbers; the tolerance of the solver makes no difference.
    assert abs(lost).max() < 0.2
    assert abs(lost.mean()) < 0.05
    error = bound.std() / np.sqrt(NUM_DIGITS)
    assert abs(bound.mean() - np.log(NUM_DIGITS)) < 4 * error + 0.02


def test_training_on_centres_tells_the_coarse_image_of_a_noised_point():
    values, images = few_digits()
    model = stage_of("details").model
    values, images = np.repeat(values, 50, 0), np.repeat(images, 50, 0)
    points = training_points(model, KEY, {}, values)
    x0, cond = trained_part(model, jr.key(1), points, values, {"image": 0.0})
    np.testing.assert_allclose(x0.x, model.part.take(images), atol=1e-6)
    noise = cond["image"] - model.part.told(images)
    # A bin of six sigma takes 1.3 % of the deviation of normal noise.
    assert float(noise.std()) == pytest.approx(0.987 * SIX_SIGMA / 2, rel=0.02)


def test_the_levels_of_noised_images_have_probabilities():
    sigma, z = 0.05, jnp.linspace(-1.2, 1.2, 40)
    centres = (2 * jnp.arange(17) + 1) / 17 - 1
    found = [elbo.level_log_prob(c, z, sigma, num_levels=17) for c in centres]
    expected = jax.nn.log_softmax(-0.5 * ((z[None] - centres[:, None]) / sigma) ** 2, 0)
    np.testing.assert_allclose(found, expected, atol=1e-12)
