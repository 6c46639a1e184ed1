from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from scipy import stats

import score_sde as ss
from score_sde import data
from score_sde.dequantisation import (
    DEQUANTISERS,
    importance_weighted,
    truncated_normal,
    uniform,
    variational,
)
from score_sde.networks import Dequantiser

LEVELS = 17
WIDTH = 2 / LEVELS
EDGES = np.linspace(-1, 1, LEVELS + 1)
sweep = pytest.mark.parametrize("name", DEQUANTISERS)


def drawn(name, level, num, sigma=WIDTH / 4):
    """`num` points of one level of one pixel, and their log-densities."""
    values = jnp.full((num, 1), level, jnp.uint8)
    out = DEQUANTISERS[name](jr.key(1), values, num_levels=LEVELS, sigma=sigma)
    return np.asarray(out.x[:, 0], np.float64), np.asarray(out.log_density, np.float64)


@sweep
@pytest.mark.parametrize("level", [0, 5, 16])
def test_points_fill_the_bin_with_the_stated_density(name, level):
    x, log_density = drawn(name, level, 40_000)
    low, high = EDGES[level], EDGES[level + 1]
    assert (low - 1e-6 <= x).all()
    assert (x <= high + 1e-6).all()
    assert (
        data.to_levels(jnp.asarray(x[1:]), num_levels=LEVELS) == level
    ).mean() > 0.999
    # The mean of (uniform density) / q over draws from q is one.
    ratio = np.exp(-np.log(WIDTH) - log_density)
    error = ratio.std() / np.sqrt(len(ratio))
    assert abs(ratio.mean() - 1) < 4 * error + 1e-6
    # A Kolmogorov-Smirnov test against the distribution it is said to be.
    centre, sigma = (low + high) / 2, WIDTH / 4
    law = {
        "uniform": stats.uniform(low, WIDTH),
        "truncated_normal": stats.truncnorm(-2, 2, centre, sigma),
    }[name]
    assert stats.kstest(x, law.cdf).pvalue > 1e-3
    # In float32, of numbers up to 30.
    np.testing.assert_allclose(
        log_density, law.logpdf(np.clip(x, low, high)), atol=1e-4
    )


@sweep
def test_the_mass_of_a_bin_is_bounded_and_then_reached(name):
    """Of a Gaussian in 17 levels, whose masses are known."""
    density = stats.norm(0.1, 0.05)  # as narrow as half a bin, so that it matters
    for level in (8, 9, 10):
        x, log_density = drawn(name, level, 40_000)
        log_ratio = density.logpdf(x) - log_density
        exact = np.log(density.cdf(EDGES[level + 1]) - density.cdf(EDGES[level]))
        bounds = []
        for draws in (1, 4, 16):
            groups = jnp.asarray(log_ratio).reshape(draws, -1)
            values = np.asarray(importance_weighted(groups))
            bounds.append(values.mean())
            error = values.std() / np.sqrt(len(values))
            assert values.mean() < exact + 4 * error
        assert bounds[0] < bounds[1] < bounds[2]
        whole = float(importance_weighted(jnp.asarray(log_ratio)[:, None])[0])
        ratio = np.exp(log_ratio)
        error = ratio.std() / ratio.mean() / np.sqrt(len(ratio))
        assert whole == pytest.approx(exact, abs=4 * error)


@pytest.mark.slow
def test_truncated_normal_loses_nothing_at_t_min():
    """Of the exact model of levels at t_min every single draw gives their probability.

    Solved by the probability flow; a uniform point would cost 1.8 nats a pixel here.
    """
    mass = np.arange(1.0, LEVELS + 1)
    mass /= mass.sum()
    centres = data.centres(jnp.arange(LEVELS), num_levels=LEVELS).astype(jnp.float64)
    oracle = ss.oracles.GaussianMixture(
        centres[:, None], jnp.zeros((LEVELS, 1, 1)), jnp.asarray(mass)
    )
    sde = ss.VP(t_min=float(ss.VP().t_from_sigma(jnp.asarray(WIDTH / 10))))
    sigma, alpha = sde.sigma(sde.t_min), sde.alpha(sde.t_min)
    values = jnp.arange(LEVELS, dtype=jnp.uint8)[:, None]

    @jax.jit
    def log_ratio(dequantised):
        out = ss.log_prob(
            alpha * dequantised.x.astype(jnp.float64),
            sde=sde,
            score=lambda xt, t, cond=None: oracle.score(xt, t, sde=sde),
            divergence="exact",
            rtol=1e-6,
            atol=1e-6,
            prior=lambda z: oracle.log_prob(z, sde.t_max, sde=sde),
        )
        nats = out.nats + jnp.log(alpha)  # of x = xt / alpha, one pixel
        return nats - dequantised.log_density.astype(jnp.float64)

    exact = np.log(mass)
    close = log_ratio(
        truncated_normal(jr.key(0), values, num_levels=LEVELS, sigma=sigma)
    )
    # 5 sigma to either side of a bin leave 6e-7; the rest is the solver and float32.
    np.testing.assert_allclose(close, exact, atol=1e-4)
    far = log_ratio(uniform(jr.key(0), values, num_levels=LEVELS, sigma=sigma))
    assert float((far - exact).mean()) < -1.0


@sweep
def test_points_pass_and_examples_are_their_own(name):
    make = DEQUANTISERS[name]
    points = jr.normal(jr.key(0), (5, 2), jnp.float32)
    out = make(jr.key(1), points, num_levels=None, sigma=0.1)
    np.testing.assert_array_equal(out.x, points)
    np.testing.assert_array_equal(out.log_density, np.zeros(5))
    values = jnp.arange(12, dtype=jnp.uint8).reshape(6, 2)
    whole, part = (
        make(jr.key(1), v, num_levels=LEVELS, sigma=0.01) for v in (values, values[:2])
    )
    np.testing.assert_array_equal(part.x, whole.x[:2])
    assert (data.to_levels(whole.x, num_levels=LEVELS) == values).all()


def test_centres_are_the_middle_of_their_bins():
    values = jnp.arange(LEVELS, dtype=jnp.uint8)
    middle = (EDGES[1:] + EDGES[:-1]) / 2
    np.testing.assert_allclose(
        data.centres(values, num_levels=LEVELS), middle, atol=1e-7
    )


# Learned points.


@pytest.fixture(scope="module")
def flow():
    """A flow of 4x4 images, away from its initial zeros, in float64."""
    params = Dequantiser.init(jr.key(0), (4, 4, 1))
    leaves, structure = jax.tree.flatten(params)
    random = np.random.RandomState(0)
    moved = [np.asarray(p) + 0.05 * random.normal(size=p.shape) for p in leaves]
    moved = [jnp.asarray(p) for p in moved]
    return partial(Dequantiser.apply, jax.tree.unflatten(structure, moved))


@pytest.mark.slow
def test_the_density_of_learned_points_is_that_of_their_jacobian(flow):
    centres = jr.uniform(jr.key(1), (1, 4, 4, 1), minval=-1.0)
    eps = jr.logistic(jr.key(2), (1, 4, 4, 1))
    u, log_density = flow(centres, eps)
    jacobian = jax.jacfwd(lambda e: flow(centres, e)[0].ravel())(eps).reshape(16, 16)
    expected = stats.logistic.logpdf(eps).sum() - np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(log_density, [expected], rtol=1e-9)
    assert ((u > 0) & (u < 1)).all()
    # It sees the image, and every square.
    other, _ = flow(centres.at[0, 0, 0, 0].add(0.5), eps)
    assert (other != u).any()


@pytest.mark.slow
def test_learned_points_lie_in_their_bins_and_are_uniform_before_training():
    values = jr.randint(jr.key(0), (400, 4, 4, 1), 0, LEVELS).astype(jnp.uint8)
    untrained = partial(Dequantiser.apply, Dequantiser.init(jr.key(0), (4, 4, 1)))
    out = jax.jit(partial(variational, num_levels=LEVELS, flow=untrained))(
        jr.key(1), values
    )
    assert (data.to_levels(out.x, num_levels=LEVELS) == values).all()
    np.testing.assert_allclose(out.log_density, -16 * np.log(WIDTH), rtol=1e-5)
    place = np.asarray((out.x - data.centres(values, num_levels=LEVELS)) / WIDTH + 0.5)
    assert stats.kstest(place.ravel(), "uniform").pvalue > 1e-3


@pytest.mark.slow
def test_learned_points_come_closer_to_the_mass_of_a_bin(standard_promotion):
    """Fitted to a known density, E[log p - log q] rises, and not above log P."""
    density = stats.norm(0.1, 0.03)
    level, num = 9, 256
    exact = 16 * np.log(density.cdf(EDGES[level + 1]) - density.cdf(EDGES[level]))
    values = jnp.full((num, 4, 4, 1), level, jnp.uint8)

    def bound(params, key):
        out = variational(
            key,
            values,
            num_levels=LEVELS,
            flow=partial(Dequantiser.apply, params),
        )
        log_p = jax.scipy.stats.norm.logpdf(out.x, 0.1, 0.03).reshape(num, -1).sum(1)
        return log_p - out.log_density

    params = Dequantiser.init(jr.key(0), (4, 4, 1))
    optimizer = optax.adam(1e-2)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, key):
        gradient = jax.grad(lambda p: -bound(p, key).mean())(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    first = np.asarray(bound(params, jr.key(0)))
    for i in range(150):
        params, state = step(params, state, jr.key(i + 1))
    last = np.asarray(bound(params, jr.key(0)))
    assert last.mean() < exact + 4 * last.std() / np.sqrt(num)
    # Nine tenths of the gap to log P are closed.
    assert exact - last.mean() < 0.1 * (exact - first.mean())
