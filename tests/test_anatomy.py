"""Every picture of the anatomy: quadrature, other ways to the same, known numbers."""

import math
import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import unless
from scipy import stats

import score_sde as ss
from score_sde import anatomy, networks, oracles, schedules
from score_sde.samplers import ddpm

WEIGHTS, MEANS, STDS = (0.3, 0.5, 0.2), (-1.6, 0.4, 1.7), (0.35, 0.5, 0.2)


def mixture(means, stds, weights, classes=None):
    arrays = [
        jnp.asarray(means)[:, None],
        jnp.asarray(stds)[:, None, None] ** 2,
        jnp.asarray(weights),
    ]
    if classes is not None:
        return oracles.LabelledMixture(*arrays, jnp.asarray(classes))
    return oracles.GaussianMixture(*arrays)


ORACLE = mixture(MEANS, STDS, WEIGHTS)
BETAS = np.full(100, 0.03)
ABAR = np.append(1.0, np.cumprod(1 - BETAS))
FINE = np.linspace(-8, 8, 16_001)
COARSE = np.linspace(-8, 8, 1601)  # of spacing 0.01, for laws of std 0.15 and more
SIX = {"rtol": 0, "atol": 6e-7}  # numbers that are known to six digits or so


def density(x):
    """Pr(x), by SciPy."""
    parts = zip(WEIGHTS, MEANS, STDS, strict=True)
    return sum(w * stats.norm.pdf(x, m, s) for w, m, s in parts)


def integral(values, grid=FINE):
    return np.trapezoid(values, grid)


def half_unit(known):
    """Half a unit of the last digit that a number is written with."""
    return 0.5 * 10.0 ** Decimal(str(known)).as_tuple().exponent


def chain(num_steps):
    """Betas of a chain of equal steps that ends where BETAS end."""
    return np.full(num_steps, 1 - 0.97 ** (100 / num_steps))


def exact_steps(betas, grid):
    """The best mean and variance of each step at the grid's points."""
    found = [
        anatomy.reverse_posterior(ORACLE, betas, t, grid, grid[:2])
        for t in range(1, len(betas) + 1)
    ]
    return [
        np.stack([getattr(f, name) for f in found]) for name in ("mean", "variance")
    ]


def test_the_example_is_that_of_the_numbers():
    np.testing.assert_allclose(ORACLE.mean(), [0.06], atol=1e-12)
    np.testing.assert_allclose(ORACLE.covariance(), [[1.59215]], atol=1e-12)
    known = [0.543794, 0.295712, 0.160807, 0.087446, 0.047553]
    np.testing.assert_allclose(ABAR[[20, 40, 60, 80, 100]], known, **SIX)


# 18.1 and 18.2: paths.


def test_a_strip_begins_and_ends_where_it_should(key):
    """Five points to noise and five of noise to points, as figure 18.1 draws them."""
    x = np.asarray(ORACLE.sample(jr.key(4), 5)[:, 0])
    forward = np.asarray(anatomy.forward_paths(jr.key(3), x, BETAS).z)
    np.testing.assert_array_equal(forward[0], x)
    gaps = abs(forward - np.sqrt(ABAR)[:, None] * x)
    assert (gaps <= 5 * np.sqrt(1 - ABAR)[:, None]).all()

    sigmas = jnp.append(jnp.asarray(schedules.levels(BETAS))[::-1], 0.0)
    start = jr.normal(jr.key(5), (5, 1)) * jnp.hypot(1.0, sigmas[0])
    drawn = ss.sample("ddpm", ORACLE.denoise, start, sigmas, key=key, return_path=True)
    assert drawn.path.shape == (101, 5, 1)
    np.testing.assert_array_equal(drawn.path[0], start)
    np.testing.assert_array_equal(drawn.path[-1], drawn.x)
    # Inside the data: five standard deviations of one of its normals around its mean.
    away = abs(np.asarray(drawn.x) - np.asarray(MEANS)) / np.asarray(STDS)
    assert (away.min(1) <= 5).all()
    # Step by step it stays where the marginals are: 6 std of z, whose mean is near 0.
    std = np.sqrt(ABAR[::-1] * 1.59215 + 1 - ABAR[::-1])
    z = np.asarray(drawn.path[..., 0]) * np.sqrt(ABAR[::-1])[:, None]
    assert (abs(z) <= 6 * std[:, None]).all()


def test_one_step_of_a_chain_is_the_kernel_of_its_beta():
    """Panel b of figure 18.2: q(z_t given z_(t-1)), by the betas of one step."""
    betas, t, z = np.asarray([0.1, 0.3, 0.02]), 2, 0.7
    found = anatomy.kernel(z, betas[t - 1 : t], FINE)
    step = stats.norm.pdf(FINE, np.sqrt(0.7) * z, np.sqrt(0.3))
    np.testing.assert_allclose(found.density[1], step, atol=1e-12)


def test_paths_with_given_noise_are_the_closed_sum():
    x, noise = (
        np.asarray([-2.0, 0.1, 1.5]),
        np.random.default_rng(0).normal(size=(7, 3)),
    )
    betas = np.asarray([0.1, 0.3, 0.02, 0.5, 0.2, 0.05, 0.4])
    z = anatomy.forward_paths(None, x, betas, noise).z
    abar = np.append(1.0, np.cumprod(1 - betas))
    for t in range(8):
        scales = np.sqrt(abar[t] / abar[1 : t + 1] * betas[:t])
        expected = np.sqrt(abar[t]) * x + scales @ noise[:t]
        np.testing.assert_allclose(z[t], expected, rtol=1e-12)


def test_paths_have_the_moments_of_the_kernel(key):
    num, x = 20_000, 1.3
    z = np.asarray(anatomy.forward_paths(key, np.full(num, x), BETAS).z)
    assert (z[0] == x).all()
    variance = 1 - ABAR
    # Five standard errors, of the mean and of the variance of normal draws.
    assert (abs(z.mean(1) - np.sqrt(ABAR) * x) <= 5 * np.sqrt(variance / num)).all()
    assert (abs(z.var(1) - variance) <= 5 * variance * np.sqrt(2 / num)).all()
    reach = abs(z - np.sqrt(ABAR)[:, None] * x).max(1)
    assert (reach <= 6 * np.sqrt(variance)).all()  # 2e-9 a draw beyond


# 18.3: the kernel of one point.


def test_the_kernel_has_known_moments_and_area_one():
    found = anatomy.kernel(2.0, BETAS, FINE)
    known = {
        20: (1.474848, 0.456206),
        40: (1.087589, 0.704288),
        80: (0.591425, 0.912554),
    }
    for t, (mean, variance) in known.items():
        np.testing.assert_allclose(found.mean[t], mean, **SIX)
        np.testing.assert_allclose(found.std[t] ** 2, variance, **SIX)
    np.testing.assert_allclose(integral(found.density), 1, atol=1e-9)
    assert found.density[0].argmax() == np.argmin(abs(FINE - 2))


def test_single_steps_compose_to_the_kernel():
    found = anatomy.kernel(2.0, BETAS, COARSE)
    steps = stats.norm.pdf(
        COARSE[None], np.sqrt(0.97) * COARSE[:, None], np.sqrt(BETAS[0])
    )
    pushed = np.asarray(found.density[1])
    for t in range(2, 81):
        pushed = 0.01 * pushed @ steps  # densities are 0 at the grid's ends
        np.testing.assert_allclose(pushed, found.density[t], atol=1e-9)


# 18.4: marginals.


def test_marginals_are_the_convolution_of_the_data_with_the_kernel():
    found = anatomy.marginals(ORACLE, BETAS, FINE)
    places = np.asarray([-2.5, -1.0, 0.0, 1.5, 3.0])
    near = np.rint((places + 8) * 1000).astype(int)
    for t in (1, 20, 60, 100):
        mean, std = np.sqrt(ABAR[t]) * FINE, np.sqrt(1 - ABAR[t])
        direct = integral(density(FINE) * stats.norm.pdf(places[:, None], mean, std))
        np.testing.assert_allclose(found.density[t, near], direct, atol=1e-9)
        below = integral(density(FINE) * stats.norm.cdf(places[:, None], mean, std))
        np.testing.assert_allclose(found.distribution[t, near], below, atol=1e-9)


def test_marginals_have_known_values():
    found = anatomy.marginals(ORACLE, BETAS, [-1.0, 0.0, 1.5]).density
    known = {
        0: (0.0865867, 0.289701, 0.277445),
        20: (0.223956, 0.306870, 0.184544),
        60: (0.235055, 0.377162, 0.144020),
    }
    for t, values in known.items():
        np.testing.assert_allclose(found[t], values, **SIX)
    rows = anatomy.marginals(ORACLE, BETAS, COARSE).density
    gap = anatomy.total_variation(rows[100], stats.norm.pdf(COARSE), COARSE)
    np.testing.assert_allclose(gap, 0.0086, atol=5e-5)


# 18.5: the true posterior.

STATES = [(-0.8, 3, -0.843852, 0.0385143), (0.9, 20, 0.900349, 0.0299823)]


@pytest.mark.parametrize(("z", "t", "mean", "variance"), STATES)
def test_the_reverse_posterior_is_likelihood_times_prior(z, t, mean, variance):
    found = anatomy.reverse_posterior(ORACLE, BETAS, t, z, FINE)
    np.testing.assert_allclose(found.mean, mean, **SIX)
    np.testing.assert_allclose(found.variance, variance, **SIX)
    product = np.asarray(found.likelihood * found.prior)
    evidence = integral(product)  # q(z_t)
    marginal = anatomy.marginals(ORACLE, BETAS, [z, z + 1]).density[t, 0]
    np.testing.assert_allclose(evidence, marginal, atol=1e-9)
    np.testing.assert_allclose(found.density, product / evidence, atol=1e-9)
    first = integral(FINE * found.density)
    np.testing.assert_allclose(found.mean, first, atol=1e-9)
    second = integral((FINE - first) ** 2 * found.density)
    np.testing.assert_allclose(found.variance, second, atol=1e-9)
    normal = stats.norm.pdf(FINE, first, np.sqrt(second))
    np.testing.assert_allclose(found.normal, normal, atol=1e-9)
    inside = np.asarray(found.density) > 1e-200
    nats = stats.entropy(np.asarray(found.density)[inside], normal[inside])
    np.testing.assert_allclose(found.kl, nats, atol=1e-9)


@pytest.mark.parametrize("t", [1, 3, 50, 100])
def test_its_mean_is_tweedies(t):
    """E[z_(t-1) given z] = z / l + (b / l) score_t(z), by the oracle's own score."""
    z = np.linspace(-3, 3, 7)
    found = anatomy.reverse_posterior(ORACLE, BETAS, t, z, FINE[::100])
    alpha, sigma = ABAR[t] ** 0.5, np.sqrt((1 - ABAR[t]) / ABAR[t])
    score = ORACLE.score(jnp.asarray(z / alpha)[:, None], sigma)[:, 0] / alpha
    expected = (z + BETAS[t - 1] * score) / np.sqrt(1 - BETAS[t - 1])
    np.testing.assert_allclose(found.mean, expected, rtol=1e-10)


def test_a_grid_that_misses_the_posterior_has_no_divergence():
    assert np.isnan(anatomy.reverse_posterior(ORACLE, BETAS, 3, 0.0, FINE[:8000]).kl)


# Steps, and the means over q(z_t) of the divergence, in nats. The smallest is also
# known as 1.6e-10: it is 1.5465e-10, and a coarser quadrature rounds it up.
DIVERGENCES = {
    1: {1: 0.266},
    2: {1: 0.244, 2: 3.2e-4},
    5: {1: 0.168, 2: 3.2e-3, 5: 3.3e-6},
    10: {1: 0.104, 5: 6.9e-5, 10: 2.4e-7},
    20: {1: 0.046, 10: 6.7e-6, 20: 2.4e-8},
    50: {1: 0.0103, 25: 3.7e-7, 50: 1.3e-9},
    100: {1: 0.0025, 50: 4.4e-8, 100: 1.55e-10},
}


@pytest.mark.parametrize("num_steps", unless((2, 20).__contains__, DIVERGENCES))
def test_many_steps_make_the_posterior_normal(num_steps):
    betas, states = chain(num_steps), np.linspace(-6, 6, 301)
    laws = anatomy.marginals(ORACLE, betas, states).density
    for t, known in DIVERGENCES[num_steps].items():
        found = anatomy.reverse_posterior(ORACLE, betas, t, states, COARSE)
        nats = integral(laws[t] * found.kl, states)
        np.testing.assert_allclose(nats, known, 0, half_unit(known), err_msg=str(t))


# 18.6: the posterior of one point.


@pytest.mark.parametrize(
    ("z", "t", "mean", "variance"),
    [(-0.5, 20, -0.577686, 0.0288940), (0.4, 60, 0.361053, 0.0298222)],
)
def test_the_conditional_posterior_is_the_product_of_normals(z, t, mean, variance):
    found = anatomy.conditional_posterior(-2.1, BETAS, t, z, FINE)
    np.testing.assert_allclose(found.mean, mean, **SIX)
    np.testing.assert_allclose(found.variance, variance, **SIX)
    product = np.asarray(found.likelihood * found.kernel)
    np.testing.assert_allclose(found.density, product / integral(product), atol=1e-9)


def test_averaged_over_the_data_it_is_the_true_posterior():
    z, t = 0.3, 5
    kernel = stats.norm.pdf(z, np.sqrt(ABAR[t]) * COARSE, np.sqrt(1 - ABAR[t]))
    given = density(COARSE) * kernel
    given /= integral(given, COARSE)  # q(x given z_t)
    each = anatomy.conditional_posterior(
        COARSE, BETAS, t, np.full_like(COARSE, z), COARSE
    )
    mixed = integral(given * np.asarray(each.density).T, COARSE)
    true = anatomy.reverse_posterior(ORACLE, BETAS, t, z, COARSE)
    np.testing.assert_allclose(mixed, true.density, atol=1e-9)


def test_the_first_step_leads_to_the_point_itself():
    found = anatomy.conditional_posterior(0.7, BETAS, 1, 0.5, FINE)
    np.testing.assert_allclose([found.mean, found.variance], [0.7, 0], atol=1e-12)
    assert found.density.argmax() == np.argmin(abs(FINE - 0.7))


# 18.7 and 18.8: fitted models, and what they draw.


@pytest.mark.slow
def test_a_table_converges_to_the_exact_mean(key):
    bins, betas = np.linspace(-2, 2, 9), chain(3)
    fine = bins[:-1, None] + 0.5 * (np.arange(50) + 0.5) / 50  # inside of each bin
    exact = []
    for t in range(1, 4):
        found = anatomy.reverse_posterior(ORACLE, betas, t, fine, FINE[:2])
        law = anatomy.marginals(ORACLE, betas, np.sort(fine.ravel())).density[t]
        law = np.asarray(law).reshape(fine.shape)
        exact.append((found.mean * law).sum(1) / law.sum(1))
    errors = []
    for num in (1_000, 100_000):
        table = anatomy.fit_table(key, ORACLE, betas, bins, num)
        errors.append(np.sqrt(np.mean((table.mean - np.stack(exact)) ** 2)))
        assert table.num_samples.sum() <= 3 * num
    assert errors[1] < 0.01
    assert 5 < errors[0] / errors[1] < 20  # 1 / sqrt(samples): 10


def test_the_tables_variance_is_that_of_the_true_posterior(key):
    bins, betas = np.linspace(-0.1, 0.1, 3), chain(3)
    table = anatomy.fit_table(key, ORACLE, betas, bins, 200_000)
    for t in (1, 2, 3):
        found = anatomy.reverse_posterior(ORACLE, betas, t, 0.0, FINE[:2])
        np.testing.assert_allclose(table.variance[t - 1], found.variance, rtol=0.05)


# Total variation to the data with the exact mean, by the variance of the steps. Ten
# steps of the true variance are also known as 0.155: it is 0.15445 on finer grids too.
VARIATIONS = {
    5: (0.248, 0.278, 0.218),
    10: (0.213, 0.174, 0.1545),
    20: (0.156, 0.116, 0.080),
    50: (0.082, 0.075, 0.026),
    100: (0.045, 0.054, 0.010),
}


def pushed(num_steps, grid):
    betas = chain(num_steps)
    mean, true = exact_steps(betas, grid)
    abar = np.append(1.0, np.cumprod(1 - betas))
    small = betas * (1 - abar[:-1]) / (1 - abar[1:])
    truth = anatomy.marginals(ORACLE, betas, grid).density
    return [
        anatomy.push_back(mean, variance, betas, grid, truth)
        for variance in (betas, small, true)
    ]


@pytest.mark.parametrize("num_steps", unless((10).__eq__, VARIATIONS))
def test_reverse_chains_are_as_far_from_the_data_as_known(num_steps):
    grid = np.linspace(-6, 6, 1201)
    found = pushed(num_steps, grid)
    gaps = [f.total_variation[0] for f in found]
    np.testing.assert_allclose(gaps, VARIATIONS[num_steps], 0, 5e-4)
    for law in found:
        np.testing.assert_allclose(integral(law.density, grid), 1, atol=1e-6)


@pytest.mark.slow
def test_samples_of_a_chain_follow_the_pushed_density(key):
    """20,000 samples of the library's own sampler, by a chi-square of 40 cells."""
    betas, num, grid = chain(10), 20_000, np.linspace(-6, 6, 1201)
    sigmas = jnp.append(jnp.asarray(schedules.levels(betas))[::-1], 0.0)
    start = jr.normal(jr.key(1), (num, 1)) * jnp.hypot(1.0, sigmas[0])
    x = ss.sample("ddpm", ORACLE.denoise, start, sigmas, key=key).x[:, 0]
    law = np.asarray(pushed(10, grid)[1].density[0])
    below = np.append(0, np.cumsum(0.5 * (law[1:] + law[:-1]) * np.diff(grid)))
    edges = np.interp(np.linspace(0, 1, 41), below / below[-1], grid)
    counts = np.histogram(x, edges)[0]
    # The pushed chain's last step has the grid's own spread; the sampler's has none.
    assert stats.chisquare(counts, np.full(40, counts.sum() / 40)).pvalue > 1e-3
    assert num - counts.sum() <= 2


# 18.9: the U-Net.


@pytest.mark.parametrize("name", ["adm", "ddpm"])
def test_the_table_of_a_unet_is_that_of_a_forward_pass(name):
    module = networks.NETWORKS[name](
        channels=32, multipliers=(1, 2), blocks_per_level=1, attention_resolutions=(4,)
    )
    table = anatomy.unet_table(module, 8)
    shapes = jax.eval_shape(
        lambda x, noise: module.init_with_output(
            jr.key(0), x, noise, capture_intermediates=True, mutable=True
        )[1]["intermediates"],
        jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
    )
    for block, side, width in zip(table.name, table.side, table.width, strict=True):
        assert shapes[block]["__call__"][0].shape == (1, side, side, width), block
    assert sum(table.skip) == 32 + 32 + 32 + 64  # first convolution, block, down, block


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adm", {}),
        ("adm", {"resblock_updown": False}),
        ("ddpm", {}),
        ("song_unet", {}),
        ("song_unet", {"block": "ddpm"}),
        ("edm2", {}),
    ],
)
def test_blocks_are_called_as_the_table_says(name, options):
    """What a block reads, whether it is told the time, whether it attends."""
    module = networks.NETWORKS[name](
        channels=32,
        multipliers=(1, 2),
        blocks_per_level=1,
        attention_resolutions=(4,),
        **options,
    )
    table = anatomy.unet_table(module, 8)
    reads, told, attends = {}, set(), set()

    def spy(call, args, kwargs, context):
        path = context.module.path
        if context.method_name == "__call__" and path:
            if len(path) == 1:
                reads[path[0]] = args[0].shape[-1]
                told.update(path if len(args) == 3 else ())
            if "qkv" in path[-1]:
                attends.add(path[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(spy):
        jax.eval_shape(
            module.init,
            jr.key(0),
            jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32),
            jax.ShapeDtypeStruct((1,), jnp.float32),
        )
    for row, block in enumerate(table.name):
        is_module = block in reads  # to resample alone takes none
        assert is_module or not table.sees_time[row], block
        assert not is_module or table.reads[row] == reads[block], block
        assert table.sees_time[row] == (block in told), block
        assert table.attends[row] == (block in attends), block
    assert told <= set(table.name)


# All pictures at once.


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_command_draws_every_figure_in_a_minute(tmp_path):
    script = Path(__file__).parents[1] / "docs/make_figures.py"
    is_idle = os.getloadavg()[0] < 0.5 * len(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    count, seconds = map(int, re.findall(r"\d+", done.stdout.splitlines()[-1]))
    # Figures 18.1 to 18.12, the table of steps, the likelihood and the consistency.
    assert len(list(tmp_path.glob("*.png"))) == count == 15
    assert seconds < 60 or not is_idle  # seconds of a busy machine say nothing


# 18.10: families with the same marginals.


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("t", "s"), [(1, 0), (20, 19), (60, 15), (100, 0)])
def test_every_family_keeps_the_kernel(share, t, s):
    """The kernel at t, then the step, is the kernel at s: mean and variance."""
    v = share * (1 - ABAR[s])
    origin, unit = (
        anatomy.family(1.7, z, BETAS, t, s, v) for z in (np.zeros(()), np.ones(()))
    )
    slope = unit.mean - origin.mean
    mean = origin.mean + slope * np.sqrt(ABAR[t]) * 1.7
    np.testing.assert_allclose(mean, np.sqrt(ABAR[s]) * 1.7, rtol=1e-12)
    variance = slope**2 * (1 - ABAR[t]) + unit.variance
    np.testing.assert_allclose(variance, 1 - ABAR[s], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_family_is_the_library_s_ddim(eta):
    t, s, x, z = 60, 20, -0.4, np.asarray([-1.0, 0.3, 2.0])
    sigma, sigma_next = (np.sqrt((1 - ABAR[i]) / ABAR[i]) for i in (t, s))
    std = eta * float(ddpm.posterior_stds(*map(jnp.asarray, (sigma, sigma_next)))[0])
    found = anatomy.family(x, z, BETAS, t, s, ABAR[s] * std**2)
    noise = jr.normal(jr.key(0), (1, 3, 1))
    states = jnp.asarray(z)[:, None] / ABAR[t] ** 0.5
    moved = ss.sample(
        ss.samplers.SAMPLERS["ddim"](eta=eta),
        lambda y, sigma, cond=None: jnp.full_like(y, x),
        states,
        jnp.asarray([sigma, sigma_next]),
        noise=noise,
    ).x[:, 0]
    drawn = found.mean + jnp.sqrt(found.variance) * noise[0, :, 0]
    np.testing.assert_allclose(moved * ABAR[s] ** 0.5, drawn, rtol=1e-10)


# 18.11: a cascade.

PICTURES = oracles.GaussianMixture(
    jnp.asarray([[-1.0, 0.5], [1.2, 0.8]]),
    jnp.asarray([[[0.3, 0.1], [0.1, 0.2]], [[0.2, -0.1], [-0.1, 0.4]]]),
    jnp.asarray([0.4, 0.6]),
)


@pytest.mark.slow
def test_small_then_large_is_the_law_of_the_pictures():
    noise, y = 0.3, np.linspace(-6, 6, 1201)
    points = jnp.asarray([[-1.0, 0.4], [0.0, 0.0], [1.5, 1.0]])
    small = anatomy.cascade(PICTURES, np.ones_like(y), noise, y).small
    np.testing.assert_allclose(integral(small, y), 1, atol=1e-9)

    @jax.vmap
    def given(y):
        return jnp.exp(anatomy.given_average(PICTURES, y, noise).log_prob(points, 0.0))

    found = integral(np.asarray(small)[:, None].T * given(jnp.asarray(y)).T, y)
    np.testing.assert_allclose(
        found, jnp.exp(PICTURES.log_prob(points, 0.0)), atol=1e-9
    )


def test_noise_hides_the_mistakes_of_the_first_stage():
    y = np.linspace(-7, 7, 701)
    average = sum(
        w * stats.norm.pdf(y, m.mean(), np.sqrt(c.mean()))
        for w, m, c in zip(
            PICTURES.weights, PICTURES.means, PICTURES.covariances, strict=True
        )
    )
    right = anatomy.cascade(PICTURES, average, 0.5, y)
    np.testing.assert_allclose(right.total_variation, 0, atol=1e-9)
    np.testing.assert_allclose(right.drawn, right.small, atol=1e-9)
    wrong = stats.norm.pdf(y, 0.5, 0.8)
    errors = [
        float(anatomy.cascade(PICTURES, wrong, noise, y).total_variation)
        for noise in (0.03, 0.3, 1.0)
    ]
    # Without noise nothing is hidden; with much of it, the second stage does it all.
    apart = float(anatomy.total_variation(average, wrong, y))
    assert errors == sorted(errors, reverse=True)
    np.testing.assert_allclose(errors[0], apart, atol=0.02)
    assert errors[-1] < 0.05 * apart
    # On a grid without room for the noise there is no number.
    assert np.isnan(anatomy.cascade(PICTURES, wrong, 3.0, y).total_variation)


# 18.12: guidance.

CLASSES = mixture(MEANS, STDS, WEIGHTS, classes=[[0.9, 0.3, 0.05], [0.1, 0.7, 0.95]])


@pytest.mark.slow
def test_guidance_of_weight_one_draws_the_class():
    grid = np.linspace(-4, 4, 81)
    found = anatomy.guided_law(CLASSES, 1, 1.0, grid, sde=ss.VP(beta_max=40.0))
    # The prior is N(0, 1), not the noised data, whose mean is 4e-5 times theirs.
    np.testing.assert_allclose(found.density, found.given, atol=1e-4)
    np.testing.assert_allclose(found.tilted, found.given, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("weight", "apart"), [(2.0, 0.113), (4.0, 0.328)])
def test_guidance_of_more_weight_draws_no_tilted_law(weight, apart):
    grid = np.linspace(-4, 4, 161)
    found = anatomy.guided_law(CLASSES, 1, weight, grid)
    for law in found[:3]:
        np.testing.assert_allclose(integral(law, grid), 1, atol=5e-3)
    joint = np.asarray(CLASSES.log_prob(jnp.asarray(grid)[:, None], 0.0))
    share = CLASSES.log_class(
        jnp.asarray(grid)[:, None], 0.0, {"label": jnp.ones(161, jnp.int32)}
    )
    assert np.ptp(np.log(found.tilted) - joint - weight * share) < 1e-9
    # As figure 18.12 states it; grids of 161 and 321 points agree to 2e-4.
    np.testing.assert_allclose(found.total_variation, apart, atol=5e-4)


# The flow.


def test_the_quantile_map_has_known_values_and_an_inverse():
    sigma, alpha = np.sqrt((1 - ABAR[100]) / ABAR[100]), ABAR[100] ** 0.5
    z = np.asarray([-1.0, 0.2, 1.0])
    x = anatomy.quantile_map(ORACLE, z / alpha, sigma, 0.0)
    np.testing.assert_allclose(x, [-1.573679, 0.457119, 1.533494], **SIX)
    back = anatomy.quantile_map(ORACLE, x, 0.0, sigma)
    np.testing.assert_allclose(back * alpha, z, rtol=1e-12)
    far = jnp.asarray([-40.0, 40.0])  # where a probability is below 1e-300
    there = anatomy.quantile_map(ORACLE, far, 0.5, 0.1)
    np.testing.assert_allclose(
        anatomy.quantile_map(ORACLE, there, 0.1, 0.5), far, rtol=1e-12
    )


def test_it_is_the_flow_of_a_gaussian():
    mean, covariance = jnp.asarray([0.3]), jnp.asarray([[0.49]])
    gaussian = oracles.Gaussian(mean, covariance)
    x = jnp.linspace(-3, 3, 7)
    found = anatomy.quantile_map(gaussian, x, 2.0, 0.4)
    expected = gaussian.flow(x[:, None], 2.0, 0.4)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_it_is_the_flow_of_the_oracle_which_solves_it():
    x = jnp.asarray([-3.0, 0.2, 2.5])
    found = anatomy.quantile_map(ORACLE, x, 2.0, 0.0)
    solved = ORACLE.flow(x[:, None], 2.0, 0.0)[:, 0]
    np.testing.assert_allclose(found, solved, atol=1e-8)  # as the solver states


@pytest.mark.slow
def test_ddim_keeps_quantiles_as_its_steps_double():
    """First order: the error halves; paths never cross."""
    start = jnp.linspace(-2, 2, 9)
    exact = anatomy.quantile_map(ORACLE, start * 4, 4.0, 0.1)
    errors = []
    for num_steps in (80, 160):
        sigmas = jnp.exp(jnp.linspace(jnp.log(4.0), jnp.log(0.1), num_steps + 1))
        found = ss.sample(
            "ddim", ORACLE.denoise, start[:, None] * 4, sigmas, return_path=True
        )
        assert (jnp.diff(found.path[..., 0], axis=1) > 0).all()
        errors.append(abs(found.x[:, 0] - exact).max())
    assert 1.7 < errors[0] / errors[1] < 2.3


def test_its_derivatives_are_differences():
    x = jnp.asarray([-1.0, 0.5, 2.0])
    for place in range(3):
        arguments = [x, jnp.asarray(1.5), jnp.asarray(0.3)]

        def moved(value, place=place, arguments=arguments):
            return anatomy.quantile_map(
                ORACLE, *[value if i == place else a for i, a in enumerate(arguments)]
            )

        at = arguments[place]
        slope = jax.jvp(moved, (at,), (jnp.ones_like(at),))[1]
        differences = (moved(at + 1e-5) - moved(at - 1e-5)) / 2e-5
        np.testing.assert_allclose(slope, differences, rtol=1e-7)


def test_density_and_stretch_along_the_flow_have_one_sum():
    x = np.linspace(-2, 2, 5)
    found = anatomy.flow_likelihood(ORACLE, x, [0.05, 10.0])
    total = found.log_density + found.log_stretch
    np.testing.assert_allclose(total[1], total[0], atol=1e-10)
    np.testing.assert_allclose(found.log_stretch[0], 0, atol=1e-12)


@pytest.mark.slow
def test_the_density_along_the_flow_is_the_library_s_likelihood():
    """The stretch by the quantile map is the integral of the divergence."""
    x = jnp.asarray([-1.5, 0.2, 1.6])
    sde = ss.EDM(t_min=0.05, t_max=10.0)
    found = anatomy.flow_likelihood(ORACLE, x, [0.05, 0.5, 10.0])
    total = found.log_density + found.log_stretch
    np.testing.assert_allclose(total[1:], total[:1].repeat(2, 0), atol=1e-10)

    def score(xt, t, cond=None):
        return ORACLE.score(xt, t)

    solved = ss.log_prob(
        x[:, None], sde=sde, score=score, divergence="exact", rtol=1e-8, atol=1e-8
    )
    np.testing.assert_allclose(solved.latent[:, 0], found.x[-1], rtol=1e-6)
    prior = stats.norm.logpdf(found.x[-1], 0, 10)
    stretch = solved.nats - prior
    np.testing.assert_allclose(stretch, found.log_stretch[-1], atol=1e-6)


@pytest.mark.slow
def test_a_learned_consistency_function_nears_the_exact_one(key):
    bins = np.linspace(-3, 3, 121)
    centres = jnp.asarray(0.5 * (bins[1:] + bins[:-1]))
    errors = []
    for num_steps in (10, 40):
        betas = chain(num_steps)
        table = anatomy.fit_consistency(key, ORACLE, betas, bins, 40_000)
        sigma = schedules.levels(betas)[-1]
        exact = anatomy.quantile_map(
            ORACLE, centres * jnp.hypot(1.0, sigma), sigma, 0.0
        )
        law = stats.norm.pdf(np.asarray(centres))
        square = (np.asarray(table.value[-1]) - np.asarray(exact)) ** 2
        errors.append(np.sqrt((law * square).sum() / law.sum()))
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.2


# The problems of the chapter, as identities of the same functions.


def variance_stays_one():
    """18.1: z_t of unit variance has z_(t+1) of unit variance."""
    start = mixture([0.0], [1.0], [1.0])
    rows = np.asarray(anatomy.marginals(start, BETAS, FINE).density)
    np.testing.assert_allclose(integral(FINE**2 * rows), 1, atol=1e-9)


def sums_of_normals_are_normal():
    """18.2: a e1 + b e2 has the variance a^2 + b^2; here two steps in one."""
    two = anatomy.kernel(0.0, [0.2, 0.3], FINE)
    np.testing.assert_allclose(two.std[2] ** 2, 0.7 * 0.2 + 0.3, rtol=1e-12)


def z_3_is_one_normal():
    """18.3: z_3 = sqrt(abar_3) x + sqrt(1 - abar_3) e."""
    betas, x = np.asarray([0.1, 0.2, 0.3]), 1.4
    third = anatomy.kernel(x, betas, FINE)
    np.testing.assert_allclose(third.mean[3], np.sqrt(0.9 * 0.8 * 0.7) * x, rtol=1e-12)
    np.testing.assert_allclose(third.std[3] ** 2, 1 - 0.9 * 0.8 * 0.7, rtol=1e-12)


def posterior_is_eq_18_15():
    """18.6: mean and variance as the book writes them."""
    t, x, z = 30, 0.8, -0.3
    found = anatomy.conditional_posterior(x, BETAS, t, z, FINE)
    b, before, after = 0.03, ABAR[t - 1], ABAR[t]
    mean = (1 - before) / (1 - after) * np.sqrt(1 - b) * z
    mean += np.sqrt(before) * b / (1 - after) * x
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(found.variance, b * (1 - before) / (1 - after))


def divergence_of_normals():
    """18.7: KL of two normals of one variance is half the squared gap over it."""
    means = np.asarray(anatomy.kernel(1.0, BETAS, FINE).mean)[[10, 20]]
    p, q = (stats.norm.pdf(FINE, m, 0.5) for m in means)
    gap = float(means[0] - means[1])
    np.testing.assert_allclose(stats.entropy(p, q), gap**2 / 0.5, rtol=1e-9)


def ratio_of_scales():
    """18.8: sqrt(abar_t / abar_(t-1)) = sqrt(1 - b_t)."""
    mean = anatomy.kernel(1.0, BETAS, FINE).mean
    np.testing.assert_allclose(mean[1:] / mean[:-1], np.sqrt(1 - BETAS), rtol=1e-12)


def family_is_eq_18_50():
    """18.10: the family with the posterior's variance is the posterior."""
    t = 30
    v = 0.03 * (1 - ABAR[t - 1]) / (1 - ABAR[t])
    found = anatomy.family(0.8, -0.3, BETAS, t, t - 1, v)
    other = anatomy.conditional_posterior(0.8, BETAS, t, -0.3, FINE)
    np.testing.assert_allclose(found.mean, other.mean, rtol=1e-12)


def loss_of_the_mean_is_loss_of_the_noise():
    """Eq. 18.36-38: the squared gap of means is a multiple of that of the noise."""
    t, x, eps, guess = 30, 0.8, 0.5, -0.2
    z = np.sqrt(ABAR[t]) * x + np.sqrt(1 - ABAR[t]) * eps
    other = (z - np.sqrt(1 - ABAR[t]) * guess) / np.sqrt(ABAR[t])
    v = 0.03 * (1 - ABAR[t - 1]) / (1 - ABAR[t])
    gap = [anatomy.family(a, z, BETAS, t, t - 1, v).mean for a in (x, other)]
    factor = 0.03 / np.sqrt((1 - ABAR[t]) * 0.97)
    np.testing.assert_allclose(abs(gap[0] - gap[1]), factor * 0.7, rtol=1e-10)


@pytest.mark.parametrize(
    "problem",
    [
        variance_stays_one,
        sums_of_normals_are_normal,
        z_3_is_one_normal,
        posterior_is_eq_18_15,
        divergence_of_normals,
        ratio_of_scales,
        family_is_eq_18_50,
        loss_of_the_mean_is_loss_of_the_noise,
    ],
    ids=lambda f: f.__name__,
)
def test_problems(problem):
    problem()


# Mistakes.

PLANE = oracles.Gaussian(jnp.zeros(2), jnp.eye(2))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: anatomy.kernel(0.0, [0.5, 1.0], FINE), "betas is .*> 0 and < 1"),
        (lambda: anatomy.kernel(0.0, [], FINE), r"betas has the shape \(0,\)"),
        (lambda: anatomy.kernel(0.0, BETAS, FINE[::-1]), "grid .*rising points"),
        (lambda: anatomy.marginals(PLANE, BETAS, FINE), "one dimension"),
        (lambda: anatomy.quantile_map(PLANE, [0.0], 1.0, 0.5), "one dimension"),
        (lambda: anatomy.quantile_map(ORACLE, [0.0], -1.0, 0.5), "sigma is -1.0; it"),
        (
            lambda: anatomy.quantile_map(ORACLE, [0.0], 1.0, [1.0, 2.0]),
            "sigma_next has",
        ),
        (lambda: anatomy.forward_paths(None, [0.0], BETAS), "needs a key"),
        (
            lambda: anatomy.forward_paths(None, [0.0], BETAS, np.ones((3, 1))),
            "noise has the shape",
        ),
        (
            lambda: anatomy.reverse_posterior(ORACLE, BETAS, 0, 0.0, FINE),
            "t is 0; it must be from 1 to 100",
        ),
        (
            lambda: anatomy.family(0.0, 0.0, BETAS, 5, 5, 0.1),
            "s is 5; it must be from 0 to 4",
        ),
        (
            lambda: anatomy.family(0.0, 0.0, BETAS, 5, 4, 2.0),
            "variance is 2.0; it must be from 0 to",
        ),
        (
            lambda: anatomy.push_back(np.ones((3, 5)), BETAS, BETAS, FINE),
            "mean has the shape",
        ),
        (lambda: anatomy.given_average(ORACLE, 0.0, 0.1), "two dimensions"),
        (lambda: anatomy.given_average(PLANE, 0.0, 0.0), "noise is 0.0; it must be"),
        (lambda: anatomy.guided_law(CLASSES, 2, 1.0, FINE), "2"),
        (
            lambda: anatomy.fit_table(jr.key(0), ORACLE, BETAS, FINE, 0),
            "num_samples is 0",
        ),
        (
            lambda: anatomy.fit_consistency(jr.key(0), ORACLE, [0.1], [90.0, 91.0], 9),
            "no sample of step 1",
        ),
    ],
)
def test_mistakes_are_answered(call, match, unchecked):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.slow
def test_float32_is_kept(as_float32):
    grid = np.linspace(-8, 8, 401, dtype=np.float32)
    found = anatomy.reverse_posterior(as_float32, BETAS, 20, 0.9, grid)
    assert found.density.dtype == jnp.float32
    assert math.isclose(found.mean, 0.900349, abs_tol=1e-5)
    carried = anatomy.quantile_map(as_float32, grid, 1.0, 0.5)
    assert carried.dtype == jnp.float32
    assert np.isfinite(carried).all()


@pytest.fixture
def as_float32():
    with jax.enable_x64(False):
        yield mixture(*(np.asarray(a, np.float32) for a in (MEANS, STDS, WEIGHTS)))
