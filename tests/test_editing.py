import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import GAUSSIAN

import score_sde as ss
from score_sde import editing, measurements
from score_sde.measurements import (
    Blur,
    Downsample,
    Grey,
    Mask,
    Matrix,
    Operator,
    fourier,
)
from score_sde.samplers import SAMPLERS

IMAGE = (4, 6, 3)
MEASUREMENTS = {
    "mask": (Mask(jr.bernoulli(jr.key(1), 0.5, (4, 6, 1))), IMAGE),
    "downsample": (Downsample(2), IMAGE),
    "grey": (Grey(), IMAGE),
    "blur": (Blur(measurements.gaussian_kernel(3, 0.8)), IMAGE),
    "crooked blur": (Blur(jr.normal(jr.key(2), (2, 3))), IMAGE),
    "matrix": (Matrix(jr.normal(jr.key(3), (2, 4))), (4,)),
    # Distinct eigenvalues of A A', hence iterations that are exact: few.
    "operator": (Operator(lambda x: x[:, ::2] + 0.5 * x[:, 1::2], shape=IMAGE), IMAGE),
    "waves": (fourier(np.arange(24).reshape(4, 6) % 3 > 0), IMAGE),
    "wide matrix": (Matrix(jnp.ones((3, 4)) * jnp.arange(1, 4.0)[:, None]), (4,)),
}
sweep = pytest.mark.parametrize("name", MEASUREMENTS)
PARTLY = Matrix(jnp.asarray([[1.0, 0.5, 0.0, -1.0], [0.0, 1.0, 1.0, 0.0]]))
# The covariance is off by 4 % at 40 steps of Heun, by a sixth of that at 100.
SIGMAS = ss.grids.karras(100, sigma_min=0.005, sigma_max=200.0)


def dense(measurement, shape):
    """The matrix of a measurement, from what it does to each pixel."""
    pixels = jnp.eye(int(np.prod(shape))).reshape(-1, *shape)
    return np.asarray(measurement(pixels)).reshape(len(pixels), -1).T


def posterior(gaussian, matrix, y, noise_std):
    """N(mean, covariance) of x0 given y = A x0 + s n: the textbook formula."""
    mean, covariance = (np.asarray(a) for a in (gaussian.mean(), gaussian.covariance()))
    gram = matrix @ covariance @ matrix.T + noise_std**2 * np.eye(len(matrix))
    gain = np.linalg.solve(gram, matrix @ covariance).T
    return ss.oracles.Gaussian(
        jnp.asarray(mean + gain @ (np.asarray(y) - matrix @ mean)),
        jnp.asarray(covariance - gain @ matrix @ covariance),
    )


# Measurements.


@sweep
def test_the_transpose_is_the_transpose(name):
    measurement, shape = MEASUREMENTS[name]
    x = jr.normal(jr.key(4), (2, *shape))
    matrix, y = dense(measurement, shape), measurement(x)
    np.testing.assert_allclose(
        y.reshape(2, -1), x.reshape(2, -1) @ matrix.T, atol=1e-12
    )
    back = measurement.transpose(y).reshape(2, -1)
    np.testing.assert_allclose(back, y.reshape(2, -1) @ matrix, atol=1e-12)


@sweep
def test_solutions_are_those_of_dense_algebra(name):
    measurement, shape = MEASUREMENTS[name]
    matrix = dense(measurement, shape)
    y = measurement(jr.normal(jr.key(4), (2, *shape)))
    scale, shift = jnp.asarray([0.3, 2.0]), jnp.asarray([0.1, 0.5])
    out = np.asarray(measurement.solve(y, scale, shift)).reshape(2, -1)
    for i in range(2):
        full = float(scale[i]) * matrix @ matrix.T + float(shift[i]) * np.eye(
            len(matrix)
        )
        expected = np.linalg.solve(full, np.asarray(y[i]).ravel())
        np.testing.assert_allclose(out[i], expected, rtol=1e-9, atol=1e-9)
    inverse = measurement.pseudo_inverse(y).reshape(2, -1)
    expected = y.reshape(2, -1) @ np.linalg.pinv(matrix, rcond=1e-3).T
    np.testing.assert_allclose(inverse, expected, atol=1e-8)


# Exact posteriors.


def test_moment_matching_is_the_posterior_of_a_gaussian():
    """Four distinct eigenvalues at most: so many iterations are exact."""
    x, sigma = jr.normal(jr.key(5), (5, 4)), jnp.asarray([0.01, 0.1, 0.5, 2.0, 50.0])
    y = jnp.asarray([[0.3, -0.2]])
    for noise_std in (0.0, 0.3):
        exact = posterior(GAUSSIAN, dense(PARTLY, (4,)), y[0], noise_std)
        guided = editing.moment_matching(
            GAUSSIAN.denoise, PARTLY, y, noise_std=noise_std, num_iterations=4
        )
        found, expected = jax.jit(guided)(x, sigma), exact.denoise(x, sigma)
        np.testing.assert_allclose(found, expected, atol=1e-7)


def test_the_pseudo_inverse_is_the_posterior_of_an_isotropic_gaussian():
    gaussian = ss.oracles.Gaussian(jnp.arange(4.0), 0.25 * jnp.eye(4))
    x, sigma = jr.normal(jr.key(5), (5, 4)), jnp.asarray([0.01, 0.1, 0.5, 2.0, 50.0])
    y = jnp.asarray([[0.3, -0.2]])
    for noise_std in (0.0, 0.3):
        exact = posterior(gaussian, dense(PARTLY, (4,)), y[0], noise_std)
        guided = editing.pseudo_inverse(
            gaussian.denoise, PARTLY, y, noise_std=noise_std, sigma_data=0.5
        )
        found, expected = guided(x, sigma), exact.denoise(x, sigma)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def drawn(denoise, num=50_000, sampler="heun", sigmas=SIGMAS):
    x = sigmas[0] * jr.normal(jr.key(6), (num, 4))
    run = jax.jit(lambda x: ss.sample(sampler, denoise, x, sigmas, key=jr.key(7)).x)
    return np.asarray(run(x))


@pytest.mark.slow
def test_restored_samples_have_the_exact_mean_and_covariance():
    noise_std, y = 0.3, jnp.asarray([[0.3, -0.2]])
    exact = posterior(GAUSSIAN, dense(PARTLY, (4,)), y[0], noise_std)
    samples = drawn(
        editing.moment_matching(
            GAUSSIAN.denoise, PARTLY, y, noise_std=noise_std, num_iterations=4
        )
    )
    scale = np.sqrt(np.diag(exact.covariance()))
    # Four standard errors.
    gap = np.abs(samples.mean(0) - exact.mean())
    assert (gap < 4 * scale / np.sqrt(len(samples))).all()
    error = np.abs(np.cov(samples.T) - exact.covariance())
    variances = np.diag(exact.covariance())
    products = np.outer(variances, variances) + np.asarray(exact.covariance()) ** 2
    assert (error < 4 * np.sqrt(products / len(samples))).all()


@pytest.mark.slow
def test_repainting_nears_the_posterior_that_replacing_misses():
    """Two correlated coordinates, one of them known."""
    covariance = jnp.asarray([[1.0, 0.9], [0.9, 1.0]])
    gaussian = ss.oracles.Gaussian(jnp.zeros(2), covariance)
    known = Mask(jnp.asarray([1.0, 0.0]))
    y = jnp.asarray([[1.5, 0.0]])
    replaced = editing.replace(gaussian.denoise, known, y)
    sigmas = ss.grids.karras(20, sigma_min=0.01, sigma_max=20.0)
    x = sigmas[0] * jr.normal(jr.key(6), (2_000, 2))

    def mean(sampler):
        run = jax.jit(
            lambda x: ss.sample(sampler, replaced, x, sigmas, key=jr.key(7)).x
        )
        out = np.asarray(run(x))
        np.testing.assert_allclose(out[:, 0], 1.5, atol=1e-6)
        return out[:, 1].mean()

    exact = 0.9 * 1.5
    once = mean("euler")
    assert exact - once > 0.2  # it saw y through noise alone
    for jump_length in (1, 4):
        few, often = (
            mean(SAMPLERS["repaint"](repeats=repeats, jump_length=jump_length))
            for repeats in (3, 12)
        )
        # Going over it again leaves less, and less; 0.03 is three standard errors.
        assert abs(exact - few) < 0.7 * (exact - once)
        assert abs(exact - often) < 0.5 * abs(exact - few) + 0.03


def published_jumps(num_steps, jump_length, repeats):
    """Steps of the chain, in order: the walk over t of Lugmayr et al. 2022, app. B."""
    left = dict.fromkeys(range(0, num_steps - jump_length, jump_length), repeats - 1)
    t, taken = num_steps, []
    while t > 0:
        taken.append(num_steps - t)
        t -= 1
        if left.get(t, 0):
            left[t] -= 1
            t += jump_length
    return taken


def test_repainting_goes_the_published_way():
    for num_steps, jump_length, repeats in ((8, 3, 2), (9, 3, 3), (6, 1, 2)):
        sampler = SAMPLERS["repaint"](repeats=repeats, jump_length=jump_length)
        order = sampler.order(num_steps).tolist()
        assert len(order) == sampler.num_evals(np.zeros(num_steps + 1))
        # Ours goes over the first stretch again too.
        first = (num_steps - 1) % jump_length + 1
        published = published_jumps(num_steps, jump_length, repeats)
        assert order == [*range(first)] * (repeats - 1) + published


def test_dps_steps_down_the_distance_by_the_given_length():
    """One Euler step, against the gradient of the norm by reverse mode."""
    sigmas, step = jnp.asarray([2.0, 1.5]), 0.3
    x, y = jr.normal(jr.key(5), (5, 4)), jnp.asarray([[0.3, -0.2]])

    def distance(x):
        residual = y - PARTLY(GAUSSIAN.denoise(x, 2.0))
        return jnp.sqrt((residual**2).sum(1)).sum()

    plain = ss.sample("euler", GAUSSIAN.denoise, x, sigmas).x
    guided = editing.dps(GAUSSIAN.denoise, PARTLY, y, sigmas=sigmas, step=step)
    found = ss.sample("euler", guided, x, sigmas).x
    expected = plain - step * jax.grad(distance)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


# Known pixels.


def smooth(x, sigma, cond=None):
    level = jnp.asarray(sigma, x.dtype)
    level = level.reshape(level.shape + (1,) * (x.ndim * level.ndim - level.ndim))
    return jnp.tanh(x + 0.1 * jnp.roll(x, 1, 1)) / (1 + level)


EVERY = [
    pytest.param(name, marks=[] if name in ("heun", "ddpm") else pytest.mark.slow)
    for name in SAMPLERS
]


@pytest.mark.parametrize("sampler", EVERY)
@pytest.mark.parametrize("name", ["mask", "grey"])
def test_known_pixels_are_as_given(name, sampler):
    """By the samplers that end at sigma = 0; the others need `keep_measured`."""
    measurement, shape = MEASUREMENTS[name]
    x0 = jr.normal(jr.key(8), (2, *shape), jnp.float32)
    y = measurement(x0)
    denoise = editing.replace(smooth, measurement, y)
    sigmas = ss.grids.karras(5, sigma_min=0.01, sigma_max=10.0)
    x = (10 * jr.normal(jr.key(9), x0.shape)).astype(jnp.float32)
    out = ss.sample(sampler, denoise, x, sigmas, key=jr.key(0)).x
    kept = editing.keep_measured(out, measurement, y)
    np.testing.assert_allclose(measurement(kept), y, atol=1e-6)
    if sampler not in ("dpm_fast", "dpm_adaptive"):  # these stop above 0
        # Rounding of steps that begin at levels of 10 (plms: 1.4e-6).
        np.testing.assert_allclose(measurement(out), y, atol=1e-5)


# Image to image, and translation.


def test_image_to_image_starts_from_the_noised_image_on_the_tail():
    sigmas = ss.grids.karras(10, sigma_min=0.01, sigma_max=80.0)
    assert editing.tail(sigmas, 1.0).tolist() == sigmas.tolist()
    np.testing.assert_array_equal(editing.tail(sigmas, 0.4), sigmas[6:])
    assert len(editing.tail(sigmas, 0.01)) == 2  # at least one step
    x0 = jax.jit(GAUSSIAN.sample, static_argnums=1)(jr.key(1), 20_000)
    levels = editing.tail(ss.grids.karras(60, sigma_min=0.01, sigma_max=80.0), 0.5)
    start = editing.noised(jr.key(2), x0, levels[0])
    eps = (start - x0) / levels[0]
    # Five standard errors of 80,000 normal numbers.
    assert abs(float(eps.mean())) < 5 / np.sqrt(80_000)
    assert abs(float(eps.std()) - 1) < 5 / np.sqrt(160_000)
    np.testing.assert_array_equal(
        editing.noised(jr.key(2), x0[:3], levels[0]), start[:3]
    )
    out = jax.jit(lambda x: ss.sample("heun", GAUSSIAN.denoise, x, levels).x)(start)
    # What the exact flow makes of it, up to 0.3 % by the 30 steps of second order.
    exact = GAUSSIAN.flow(start, levels[0], 0.0)
    np.testing.assert_allclose(out, exact, rtol=5e-3, atol=5e-3)


@pytest.mark.slow
def test_translation_keeps_the_place_in_the_distribution():
    """Between Gaussians the flow is affine: (x - m) / std stays."""
    means = jnp.asarray([[-1.0, 0.0], [1.0, 0.5]])
    variances = jnp.asarray([[0.04, 0.25], [0.09, 0.01]])
    classes = ss.oracles.LabelledMixture(
        means, jax.vmap(jnp.diag)(variances), jnp.ones(2), jnp.eye(2)
    )
    sde = ss.EDM(t_min=1e-3, t_max=1e4)
    score = ss.make_score(classes.denoise, sde)
    z = jr.normal(jr.key(1), (3, 2))
    first, second = (means[i][None] + jnp.sqrt(variances[i])[None] * z for i in (0, 1))
    told = [{"label": jnp.full(3, i)} for i in (0, 1)]

    @jax.jit
    def translate(x, cond_to):
        return editing.translate(
            score, sde, x, cond_from=told[0], cond_to=cond_to, rtol=1e-7, atol=1e-7
        )

    # t_max moves a point by mean * std / t_max, t_min by t_min^2 / variance.
    np.testing.assert_allclose(translate(first, told[1]), second, atol=1e-3)
    np.testing.assert_allclose(translate(first, told[0]), first, atol=1e-5)


# The same everywhere.


@pytest.mark.parametrize(
    "method", ["replace", "pseudo_inverse", "moment_matching", "dps"]
)
def test_methods_treat_examples_alone_and_keep_float32(method):
    options = {
        "replace": {},
        "pseudo_inverse": {"noise_std": 0.1, "sigma_data": 0.5},
        "moment_matching": {"noise_std": 0.1},
        "dps": {"sigmas": SIGMAS},
    }[method]
    measurement, shape = MEASUREMENTS["mask"]
    x, y = jr.normal(jr.key(1), (2, 3, *shape))
    sigma, calls = jnp.asarray([0.1, 1.0, 8.0]), []

    def counted(x, sigma, cond=None):
        calls.append(1)
        return smooth(x, sigma)

    make = getattr(editing, method)
    guided = make(counted, measurement, measurement(y), **options)
    whole = jax.jit(guided)(x, sigma)
    alone = make(smooth, measurement, measurement(y[:1]), **options)
    np.testing.assert_allclose(alone(x[:1], 0.1), whole[:1], rtol=1e-9, atol=1e-12)
    single = jax.eval_shape(guided, x.astype(jnp.float32), 0.5)
    assert single.dtype == jnp.float32
    evals = {"replace": 1, "pseudo_inverse": 2, "moment_matching": 3, "dps": 2}
    assert int(ss.guidance.network_evals(guided, 0.5)) == evals[method]
    assert len(calls) == 2  # a trace each: tangents are of the same evaluation


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Mask(jnp.ones((4, 5, 1)))(jnp.ones((2, *IMAGE))),
            r"mask of shape \(4, 5, 1\) does not fit data of shape \(2, 4, 6, 3\)",
        ),
        (lambda: Mask(jnp.ones((6, 3)))(jnp.ones((2, *IMAGE))), "does not fit data"),
        (lambda: Downsample(4)(jnp.ones((2, *IMAGE))), "no multiples of factor 4"),
        (lambda: Downsample(0), "Downsample: factor is 0; it must be >= 1"),
        (lambda: Grey()(jnp.ones((2, 4, 6, 1))), "expected 3 channels"),
        (lambda: Blur(jnp.ones((9, 9)))(jnp.ones((2, *IMAGE))), "larger than images"),
        (
            lambda: editing.replace(smooth, Grey(), jnp.ones((2, 4, 6, 3)))(
                jnp.ones((2, *IMAGE)), 0.5
            ),
            r"y has shape \(2, 4, 6, 3\); .* measured as shape \(2, 4, 6, 1\)",
        ),
        (
            lambda: editing.pseudo_inverse(
                smooth, Grey(), jnp.ones(1), noise_std=float("nan"), sigma_data=1.0
            ),
            "noise_std is nan",
        ),
        (
            lambda: editing.pseudo_inverse(
                smooth, Grey(), jnp.ones(1), noise_std=0.0, sigma_data=0.0
            ),
            "sigma_data is 0.0",
        ),
        (
            lambda: editing.moment_matching(
                smooth, Grey(), jnp.ones(1), noise_std=0.0, num_iterations=0
            ),
            "num_iterations is 0",
        ),
        (
            lambda: editing.dps(smooth, Grey(), jnp.ones(1), sigmas=SIGMAS, step=0.0),
            "step is 0.0",
        ),
        (lambda: editing.tail(SIGMAS, 0.0), "strength is 0.0"),
        (lambda: editing.tail(SIGMAS, float("nan")), "strength is nan"),
        (lambda: SAMPLERS["repaint"](repeats=0), "repeats is 0; it must be >= 1"),
        (
            lambda: SAMPLERS["repaint"](jump_length=0),
            "jump_length is 0; it must be",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
