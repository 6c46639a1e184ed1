import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import (
    GAUSSIAN,
    MIXTURE,
    SOME_SDES,
    close,
    golden,
    name_of,
    problems,
)
from scipy.stats import multivariate_normal

from score_sde import oracles, sde

CASES, ARRAYS = golden("problem")
CLOSED = [c for c in CASES if c["function"] == "problem.closed_form"]
POINTS = oracles.PointMasses(jr.normal(jr.key(5), (6, 4)))

ALL_ORACLES = [MIXTURE, GAUSSIAN, POINTS]
sweep = pytest.mark.parametrize("oracle", ALL_ORACLES, ids=name_of)


def point(oracle, num=3):
    dims = 2 if oracle is MIXTURE else 4
    return jr.normal(jr.key(1), (num, dims))


@pytest.mark.parametrize("case", CLOSED, ids=lambda c: c["id"])
def test_closed_forms_are_those_of_an_independent_program(case):
    """xt = alpha x0 + sigma n there; alpha and sigma differ per example."""
    oracle = problems()[case["problem"]]
    x, alpha, std = (
        jnp.asarray(ARRAYS[case["in"][k][1:]]) for k in ("x", "alpha", "sigma")
    )

    class Levels(sde.SDE):
        def alpha(self, t):
            return alpha

        def std(self, t):
            return std

    results = {
        "logp": oracle.log_prob(x, 0.0, sde=Levels()),
        "score": oracle.score(x, 0.0, sde=Levels()),
        "denoised": oracle.denoise(x / alpha[:, None], std / alpha),
    }
    for name, value in results.items():
        expected = ARRAYS[case["out"][name][1:]]
        assert close(value, expected, case["tol"][name]["f64"]), name


@sweep
@pytest.mark.parametrize("sde", SOME_SDES, ids=name_of)
def test_the_score_is_the_gradient_of_the_log_density(oracle, sde):
    t, x = 0.3 * sde.t_max, point(oracle)
    slope = jax.grad(lambda x: oracle.log_prob(x, t, sde=sde).sum())(x)
    np.testing.assert_allclose(oracle.score(x, t, sde=sde), slope, rtol=1e-7)


@sweep
def test_tweedies_formula(oracle):
    """D(x, sigma) = x + sigma^2 score, sigma a scalar or one per example."""
    x = point(oracle)
    for sigma in (0.7, jnp.asarray([0.2, 1.0, 30.0])):
        squared = jnp.broadcast_to(jnp.asarray(sigma), (3,))[:, None] ** 2
        expected = x + squared * oracle.score(x, sigma)
        np.testing.assert_allclose(oracle.denoise(x, sigma), expected, rtol=1e-8)


@sweep
def test_the_denoiser_is_the_posterior_mean(oracle, key):
    """Weighted by their likelihood, draws of x0 average to it."""
    x, sigma = point(oracle, 1), 1.0
    x0 = oracle.sample(key, 400_000)
    log_likelihood = -0.5 * ((x - x0) ** 2).sum(1) / sigma**2
    weights = jax.nn.softmax(log_likelihood)[:, None]
    mean = (weights * x0).sum(0)
    error = np.sqrt((weights**2 * (x0 - mean[None]) ** 2).sum(0))
    assert (np.abs(mean - oracle.denoise(x, sigma)[0]) < 5 * error).all()


def test_log_density_is_scipys():
    x, sigma = point(MIXTURE), 0.5
    weights = np.asarray(MIXTURE.weights) / np.sum(MIXTURE.weights)
    density = sum(
        w * multivariate_normal(m, c + sigma**2 * np.eye(2)).pdf(x)
        for w, m, c in zip(weights, MIXTURE.means, MIXTURE.covariances, strict=True)
    )
    np.testing.assert_allclose(MIXTURE.log_prob(x, sigma), np.log(density), rtol=1e-9)


def test_point_masses_are_the_mixture_of_vanishing_covariance():
    narrow = oracles.GaussianMixture(POINTS.points, jnp.zeros((6, 4, 4)), jnp.ones(6))
    x, sigma = point(POINTS), 0.4
    np.testing.assert_allclose(
        POINTS.denoise(x, sigma), narrow.denoise(x, sigma), rtol=1e-9
    )
    np.testing.assert_allclose(
        POINTS.log_prob(x, sigma), narrow.log_prob(x, sigma), rtol=1e-9
    )


def test_point_masses_may_be_images(key):
    images = oracles.PointMasses(jr.normal(key, (5, 4, 4, 1)))
    x = images.points + 1e-3
    np.testing.assert_allclose(images.denoise(x, 0.01), images.points, atol=1e-9)
    assert images.sample(key, 3).shape == (3, 4, 4, 1)


@pytest.mark.parametrize("oracle", [MIXTURE, GAUSSIAN], ids=name_of)
def test_samples_have_the_moments_of_the_distribution(oracle, key):
    x = oracle.sample(key, 100_000)
    scale = np.sqrt(np.diag(oracle.covariance()))
    # Five standard errors from 100,000 draws; entries of a covariance have twice that.
    assert (np.abs(x.mean(0) - oracle.mean()) < 5 * scale / np.sqrt(100_000)).all()
    bound = 10 * np.outer(scale, scale) / np.sqrt(100_000)
    assert (np.abs(np.cov(x.T) - oracle.covariance()) < bound).all()


def test_the_flow_of_a_gaussian_solves_its_equation():
    """dx/dsigma = (x - D) / sigma, and flowing there and back returns."""
    x, sigma = point(GAUSSIAN), 0.8
    velocity = jax.jvp(lambda s: GAUSSIAN.flow(x, sigma, s), (sigma,), (1.0,))[1]
    expected = (x - GAUSSIAN.denoise(x, sigma)) / sigma
    np.testing.assert_allclose(velocity, expected, rtol=1e-9)
    back = GAUSSIAN.flow(GAUSSIAN.flow(x, 0.8, 20.0), 20.0, 0.8)
    np.testing.assert_allclose(back, x, rtol=1e-9)


@sweep
def test_oracles_are_pytrees(oracle):
    x = point(oracle)
    np.testing.assert_allclose(
        jax.jit(lambda o: o.denoise(x, 0.5))(oracle), oracle.denoise(x, 0.5), rtol=1e-12
    )
    gradient = jax.grad(lambda o: o.log_prob(x, 0.5).sum())(oracle)
    assert type(gradient) is type(oracle)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_gradient_of_the_log_density_with_respect_to_a_mean():
    """By symmetry it is minus the score of its component's part."""
    x = point(GAUSSIAN, 1)
    by_mean = jax.grad(lambda o: o.log_prob(x, 0.5)[0])(GAUSSIAN).means[0]
    np.testing.assert_allclose(by_mean, -GAUSSIAN.score(x, 0.5)[0], rtol=1e-9)
