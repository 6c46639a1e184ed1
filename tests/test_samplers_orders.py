"""Orders of convergence: of the flow, and of samples along one Brownian path."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import ALL_SDES, GAUSSIAN, name_of, unless

import score_sde as ss
from score_sde.samplers import SAMPLERS, BrownianPath
from score_sde.samplers.exponential import phi

KARRAS = partial(ss.grids.karras, sigma_min=0.002, sigma_max=80.0)
# Those with noise, without it.
ORDERS = {
    "euler": (SAMPLERS["euler"](), 1),
    "heun": (SAMPLERS["heun"](), 2),
    "dpm_2": (SAMPLERS["dpm_2"](), 2),
    "dpm_2_ancestral": (SAMPLERS["dpm_2_ancestral"](eta=0.0), 2),
    "lms 1": (SAMPLERS["lms"](order=1), 1),
    "lms 2": (SAMPLERS["lms"](order=2), 2),
    "lms 3": (SAMPLERS["lms"](order=3), 3),
    "lms 4": (SAMPLERS["lms"](order=4), 4),
    "adams_bashforth 1": (SAMPLERS["adams_bashforth"](order=1), 1),
    "adams_bashforth 2": (SAMPLERS["adams_bashforth"](order=2), 2),
    "adams_bashforth 3": (SAMPLERS["adams_bashforth"](order=3), 3),
    "adams_bashforth 4": (SAMPLERS["adams_bashforth"](order=4), 4),
    "dpmpp_2s_ancestral": (SAMPLERS["dpmpp_2s_ancestral"](eta=0.0), 2),
    "dpmpp_2m": (SAMPLERS["dpmpp_2m"](), 2),
    "dpmpp_sde": (SAMPLERS["dpmpp_sde"](eta=0.0), 2),
    "dpmpp_sde r 0.3": (SAMPLERS["dpmpp_sde"](eta=0.0, r=0.3), 2),
    "dpmpp_2m_sde": (SAMPLERS["dpmpp_2m_sde"](eta=0.0), 2),
    "dpmpp_2m_sde heun": (
        SAMPLERS["dpmpp_2m_sde"](eta=0.0, solver_type="heun"),
        2,
    ),
    # Not 3: see the class.
    "dpmpp_3m_sde": (SAMPLERS["dpmpp_3m_sde"](eta=0.0), 2),
    "dpm_fast": (SAMPLERS["dpm_fast"](), 3),
    "predictor_corrector flow": (
        SAMPLERS["predictor_corrector"](
            sde=ss.VE(sigma_min=0.002, sigma_max=80.0),
            predictor="probability_flow",
            corrector="none",
        ),
        1,
    ),
}


SOME_ORDERS = ("euler", "heun", "lms 4", "dpmpp_2m", "dpm_fast")


def error(sampler, sigmas, key):
    """Largest error of the flow map from sigmas[0] to the last level."""
    x = sigmas[0] * jr.normal(key, (20, 4))
    draw = jax.jit(lambda x: ss.sample(sampler, GAUSSIAN.denoise, x, sigmas).x)
    out = draw(x)
    return float(np.abs(out - GAUSSIAN.flow(x, sigmas[0], sigmas[-1])).max())


@pytest.mark.parametrize("name", unless(SOME_ORDERS.__contains__, ORDERS))
def test_observed_order_of_the_flow(name, key):
    """Half the steps, 2^order times the error.

    The levels begin at 80, where the denoiser hardly changes: a multistep method begins
    with a step of order 1, whose error would be seen otherwise.
    """
    sampler, order = ORDERS[name]
    coarse, fine = (error(sampler, KARRAS(n + 1)[:-1], key) for n in (160, 320))
    assert np.log2(coarse / fine) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("order", [1, 3])
def test_the_flow_of_one_gaussian_is_exact_in_the_variables_of_trigflow(order, key):
    """In any number of steps, down to the level before 0."""
    std = 0.7
    sampler = SAMPLERS["adams_bashforth"](sigma_data=std, order=order)
    sigmas = ss.grids.trigflow(4, sigma_min=0.1, sigma_max=80.0, sigma_data=std)[:-1]
    x = sigmas[0] * jr.normal(key, (5, 3))
    out = ss.sample(
        sampler, lambda x, s, cond=None: x * std**2 / (std**2 + s**2), x, sigmas
    ).x
    np.testing.assert_allclose(
        out, x * np.hypot(0.1, std) / np.hypot(80.0, std), rtol=1e-9
    )
    angles = np.arctan(np.asarray(sigmas) / std)
    np.testing.assert_allclose(np.diff(angles, 2), 0, atol=1e-12)


@pytest.mark.parametrize("name", unless("heun".__eq__, ["euler", "heun", "dpmpp_2m"]))
@pytest.mark.parametrize("sde", ALL_SDES, ids=name_of)
def test_observed_order_on_the_grid_of_every_sde(name, sde, key):
    """Times even in the third root, from level 5 to 0.05.

    Errors are far above rounding there; uniform_time itself starts from a level too
    coarse to show an order at few steps.
    """
    low, high = sde.t_from_sigma(0.05), sde.t_from_sigma(5.0)
    sampler, order = ORDERS[name]

    def grid(num_steps):
        return sde.sigma(jnp.linspace(high ** (1 / 3), low ** (1 / 3), num_steps) ** 3)

    coarse, fine = (error(sampler, grid(n), key) for n in (80, 160))
    assert np.log2(coarse / fine) == pytest.approx(order, abs=0.2)


STRONG = {
    "euler_ancestral": SAMPLERS["euler_ancestral"](),
    "dpm_2_ancestral": SAMPLERS["dpm_2_ancestral"](),
    "dpmpp_2s_ancestral": SAMPLERS["dpmpp_2s_ancestral"](),
    "dpmpp_sde": SAMPLERS["dpmpp_sde"](),
    "dpmpp_2m_sde": SAMPLERS["dpmpp_2m_sde"](),
    "dpmpp_3m_sde": SAMPLERS["dpmpp_3m_sde"](),
}


def along_one_path(name, num_steps):
    """24 samples, each of a path and a start of its own, from level 5 to 0.05."""
    path = BrownianPath(jr.key(1), sigma_max=5.0)
    x = 5.0 * jr.normal(jr.key(0), (24, 4))
    sigmas = ss.grids.karras(num_steps + 1, sigma_min=0.05, sigma_max=5.0)[:-1]
    draw = jax.jit(
        lambda x: ss.sample(STRONG[name], GAUSSIAN.denoise, x, sigmas, noise=path).x
    )
    return np.asarray(draw(x))


@pytest.fixture(scope="module")
def limit():
    """Euler's samples, whose error at 512 steps is a tenth of the smallest below."""
    return along_one_path("euler_ancestral", 512)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRONG)
def test_one_brownian_path_refined_leads_to_one_sample(name, limit):
    """Strong order 1, the noise being additive: the mean distance halves.

    To the samples of Euler's method, so that all agree on the sample, too.
    """
    far, near = (np.abs(along_one_path(name, n) - limit).mean() for n in (24, 48))
    assert near < 0.05
    assert np.log2(far / near) == pytest.approx(1.0, abs=0.3)


@pytest.mark.slow
def test_increments_of_a_path_are_those_of_brownian_motion():
    """Unit variance each, and correlated as their overlap, at any scale."""
    num = 20_000
    x = jnp.zeros((num, 1))
    noise = BrownianPath(jr.key(0)).like(x)
    levels = [(80.0, 10.0), (10.0, 0.01), (0.01, 0.002), (0.002, 0.0), (80.0, 0.01)]
    draws = np.concatenate([noise(0, *ends) for ends in levels], axis=1)
    # The last covers the first two.
    overlap = np.sqrt([70 / 79.99, 9.99 / 79.99, 0, 0])
    expected = np.eye(5)
    expected[4, :4] = expected[:4, 4] = overlap
    # Five standard errors.
    np.testing.assert_allclose(np.cov(draws.T), expected, atol=5 * np.sqrt(2 / num))


@pytest.mark.slow
def test_a_path_belongs_to_its_example(key):
    x = jnp.zeros((4, 3))
    whole = BrownianPath(key).like(x)(0, 3.0, 1.0)
    np.testing.assert_array_equal(BrownianPath(key).like(x[:2])(0, 3.0, 1.0), whole[:2])
    assert len(np.unique(whole)) == whole.size
    single = BrownianPath(key).like(x.astype(jnp.float32))(0, 3.0, 1.0)
    assert single.dtype == jnp.float32
    # A first level that float32 rounds above sigma_max is where the path begins.
    above = np.nextafter(np.float32(80), np.float32(81))
    rounded = BrownianPath(key).like(x.astype(jnp.float32))(0, above, 1.0)
    exact = BrownianPath(key).like(x.astype(jnp.float32))(0, 80.0, 1.0)
    np.testing.assert_allclose(rounded, exact, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_phi_is_the_integral_that_defines_it(k):
    """phi_k(z) = integral of exp((1 - u) z) u^(k-1) / (k-1)!, by Gauss-Legendre."""
    z = np.concatenate([-np.logspace(1, -8, 30), np.logspace(-8, 0.5, 30), [0.0]])
    nodes, weights = np.polynomial.legendre.leggauss(40)
    u = (nodes[None] + 1) / 2
    values = np.exp((1 - u) * z[:, None]) * u ** (k - 1) / math.factorial(k - 1)
    np.testing.assert_allclose(
        phi(k, z), (values * weights[None] / 2).sum(1), rtol=1e-13
    )
    single = phi(k, jnp.asarray(z, jnp.float32))
    # A few roundings, where the recursion alone would lose all digits near 0.
    np.testing.assert_allclose(single, phi(k, z), rtol=3e-6)
