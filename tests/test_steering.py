"""Weighted particles against tempered, product and tilted laws that are known."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import LABELLED
from scipy import integrate

import score_sde as ss
from score_sde import steering
from score_sde.steering import Expert, effective_size, steer, systematic, tempered

LINE = ss.oracles.GaussianMixture(
    jnp.asarray([[-1.0], [0.8]]),
    jnp.asarray([[[0.09]], [[0.25]]]),
    jnp.asarray([0.4, 0.6]),
)
OTHER = ss.oracles.GaussianMixture(
    jnp.asarray([[-0.7], [1.5]]),
    jnp.asarray([[[0.2]], [[0.1]]]),
    jnp.asarray([0.5, 0.5]),
)
GRID = ss.grids.karras(100, sigma_min=0.02, sigma_max=20.0)


def density(oracle):
    return lambda x: float(np.exp(oracle.log_prob(jnp.asarray([[x]]), 1e-4)[0]))


def moments_of(unnormalised):
    """Log of the integral, mean and variance of a density on a line, by quadrature."""
    points = np.linspace(-6, 6, 24_001)
    values = unnormalised(points)
    total = integrate.trapezoid(values, points)
    mean = integrate.trapezoid(points * values, points) / total
    variance = integrate.trapezoid((points - mean) ** 2 * values, points) / total
    return np.log(total), mean, variance


def log_prob(oracle, points):
    return np.asarray(oracle.log_prob(jnp.asarray(points)[:, None], 1e-5))


def run(experts, sigmas=GRID, num=5_000, dims=1, groups=10, **options):
    """Groups of particles, one after the other: the fields lead with the group."""

    def one(key):
        key_start, key = jr.split(key)
        x = sigmas[0] * jr.normal(key_start, (num, dims))
        return steer(key, experts, x, sigmas, **options)

    return jax.jit(lambda keys: jax.lax.map(one, keys))(jr.split(jr.key(2), groups))


def assert_has_moments(found, log_total, mean, variance, *, spread=0.1):
    """50,000 particles: within 4 standard errors, by the spread of their groups."""
    x, weights = found.x[..., 0], np.exp(found.log_weights)
    wanted = {
        "normaliser": (np.exp(found.log_normaliser - log_total), 1.0),
        "mean": ((weights * x).sum(1), mean),
        "square": ((weights * x**2).sum(1), variance + mean**2),
    }
    for name, (groups, exact) in wanted.items():
        error = groups.std(ddof=1) / np.sqrt(len(groups))
        assert abs(groups.mean() - exact) < 4 * error, name
        assert error < spread * max(1, abs(exact)), name


@pytest.mark.slow
@pytest.mark.parametrize("power", [0.5, 2.0])
def test_tempered_laws_have_their_moments_and_normaliser(power):
    found = run(tempered(LINE.denoise, power))
    exact = moments_of(lambda x: np.exp(power * log_prob(LINE, x)))
    assert_has_moments(found, *exact)
    # Scaled scores alone, without weights, sample from another law.
    if power == 2.0:
        groups = np.asarray(run(tempered(LINE.denoise, power), threshold=0.0).x).mean(1)
        error = groups.std(ddof=1) / np.sqrt(len(groups))
        assert abs(groups.mean() - exact[1]) > 10 * error


@pytest.mark.slow
def test_a_sharp_law_needs_more_noise_and_smaller_steps():
    """At power 4 weights vary too much without fresh noise, which bends the path."""
    power, steps = 4.0, (100, 400)
    exact = moments_of(lambda x: np.exp(power * log_prob(LINE, x)))
    few, many = (
        run(
            tempered(LINE.denoise, power),
            sigmas=ss.grids.karras(n, sigma_min=0.02, sigma_max=20.0),
            noise=3.0,
        )
        for n in steps
    )
    # One error is 0.9 % of the normaliser, where without more noise it is 12 %.
    assert_has_moments(many, *exact, spread=0.02)
    assert np.exp(few.log_normaliser - exact[0]).mean() > 1.3


@pytest.mark.slow
def test_a_product_has_its_moments_and_normaliser():
    found = run((Expert(LINE.denoise), Expert(OTHER.denoise)))
    exact = moments_of(lambda x: np.exp(log_prob(LINE, x) + log_prob(OTHER, x)))
    assert_has_moments(found, *exact)


@pytest.mark.slow
@pytest.mark.parametrize("pull", [0.0, 0.7])
def test_a_tilted_law_has_its_moments_and_normaliser(pull):
    reward = lambda x: -2.0 * (x[:, 0] - 0.3) ** 2  # noqa: E731
    found = run(tempered(LINE.denoise, 1.0), reward=reward, pull=pull)
    exact = moments_of(lambda x: np.exp(log_prob(LINE, x) - 2.0 * (x - 0.3) ** 2))
    assert_has_moments(found, *exact)


@pytest.mark.slow
def test_guidance_by_particles_has_the_law_it_is_meant_to_have():
    """p(x) p(c given x)^3 on the plane, whose moments are those of weighted draws."""
    cond = {"label": jnp.full(5_000, 1)}
    found = run(steering.guided(LABELLED.denoise, 3.0), dims=2, cond=cond)
    means = np.einsum("gn,gnd->gd", np.exp(found.log_weights), found.x)
    error = means.std(0, ddof=1) / np.sqrt(len(means))
    draws = LABELLED.sample(jr.key(9), 400_000)
    told = {"label": jnp.full(len(draws), 1)}
    weights = jax.nn.softmax(3.0 * LABELLED.log_class(draws, 1e-3, told))
    assert (np.abs(means.mean(0) - weights @ draws) < 4 * error + 0.005).all()


def test_one_particle_without_tilt_is_the_sampler():
    sigmas = ss.grids.karras(12, sigma_min=0.02, sigma_max=60.0)
    x = sigmas[0] * jr.normal(jr.key(1), (1, 1))
    found = jax.jit(lambda x: steer(jr.key(2), tempered(LINE.denoise, 1.0), x, sigmas))(
        x
    )
    key_noise, _ = jr.split(jr.key(2))
    sampler = ss.samplers.SAMPLERS["dpmpp_2m_sde"](solver_type="heun")
    plain = ss.sample(sampler, LINE.denoise, x, sigmas, key=key_noise)
    np.testing.assert_allclose(found.x, plain.x, rtol=1e-8, atol=1e-10)
    assert float(found.log_weights[0]) == 0.0
    assert abs(float(found.log_normaliser)) < 1e-12
    assert found.ess.tolist() == pytest.approx([1.0] * 12)
    assert int(found.num_evals) == int(plain.num_evals) == 12
    many = run(tempered(LINE.denoise, 1.0), sigmas=sigmas, num=100, groups=1)
    np.testing.assert_allclose(many.log_weights, -np.log(100), atol=1e-9)


def test_the_log_normaliser_of_a_gaussian_is_its_formula():
    """Log of the integral of N(0, c)^b."""
    c, b = 0.3, 1.7
    gaussian = ss.oracles.Gaussian(jnp.zeros(1), c * jnp.eye(1))
    sigmas = ss.grids.karras(40, sigma_min=0.05, sigma_max=10.0)
    found = run(tempered(gaussian.denoise, b), sigmas=sigmas, num=500, dims=1)
    exact = -0.5 * ((b - 1) * np.log(2 * np.pi * c) + np.log(b))
    z = np.exp(found.log_normaliser - exact)
    assert abs(z.mean() - 1) < 4 * z.std(ddof=1) / np.sqrt(10)


def test_resampling_draws_by_weights_and_size_counts_them():
    log_w = jnp.log(jnp.asarray([0.5, 0.25, 0.125, 0.125]))
    assert float(effective_size(jnp.zeros(7))) == pytest.approx(7)
    assert float(effective_size(log_w)) == pytest.approx(1 / 0.34375)
    counts = np.zeros(4)
    for k in range(200):
        chosen = np.bincount(systematic(jr.key(k), log_w), minlength=4)
        assert (np.abs(chosen - 4 * np.exp(log_w)) < 1).all()
        counts += chosen
    np.testing.assert_allclose(counts / 800, np.exp(log_w), atol=0.03)


def test_mistakes_are_named():
    x = jnp.ones((2, 1))
    for experts in ((), tempered(LINE.denoise, -1.0), tempered(LINE.denoise, 0.0)):
        with pytest.raises(ValueError, match="powers must sum to more than 0"):
            steer(jr.key(0), experts, x, GRID)
    with pytest.raises(ValueError, match="threshold is 2.0; it must be from 0 to 1"):
        steer(jr.key(0), tempered(LINE.denoise, 2.0), x, GRID, threshold=2.0)


def test_a_hard_constraint_leaves_the_law_inside_of_it():
    """A reward of -inf where x <= 0, also where every guess on the way is there."""
    reward = lambda x: jnp.where(x[:, 0] > 0, 0.0, -jnp.inf)  # noqa: E731
    sigmas = ss.grids.karras(40, sigma_min=0.02, sigma_max=20.0)
    found = run(tempered(LINE.denoise, 1.0), sigmas=sigmas, num=1_000, reward=reward)
    exact = moments_of(lambda x: np.exp(log_prob(LINE, x)) * (x > 0))
    assert_has_moments(found, *exact)
    assert (np.asarray(found.x)[np.isfinite(found.log_weights)] > 0).all()
    # One that is paid on the way too, so that particles are drawn anew.
    sharp = lambda x: jnp.where(x[:, 0] > 0, 3.0 * x[:, 0], -jnp.inf)  # noqa: E731
    found = run(tempered(LINE.denoise, 1.0), sigmas=sigmas, num=1_000, reward=sharp)
    assert found.resampled.any()
    exact = moments_of(lambda x: np.exp(log_prob(LINE, x) + 3.0 * x) * (x > 0))
    assert_has_moments(found, *exact)


def test_particles_of_which_none_is_allowed_say_so():
    nowhere = lambda x: jnp.full(len(x), -jnp.inf)  # noqa: E731
    sigmas = ss.grids.karras(5, sigma_min=0.02, sigma_max=20.0)
    x = sigmas[0] * jr.normal(jr.key(1), (8, 1))
    found = steer(jr.key(0), tempered(LINE.denoise, 1.0), x, sigmas, reward=nowhere)
    assert float(found.log_normaliser) == -np.inf
    assert float(found.ess[-1]) == 0.0
    assert np.isnan(found.mean(found.x)).all()
    assert np.isnan(steering.resample(jr.key(2), found)).all()
    assert np.isfinite(found.x).all()


def test_a_particle_without_weight_is_never_drawn():
    log_w = jnp.asarray([-jnp.inf, 0.0, -jnp.inf, 0.0, -jnp.inf])
    assert float(effective_size(log_w)) == pytest.approx(2)
    for k in range(50):
        assert set(systematic(jr.key(k), log_w).tolist()) == {1, 3}
