"""What users bring: NumPy's float64, whole numbers, keys of either kind."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import GAUSSIAN, unless
from scipy.stats import kstest

import score_sde as ss
from score_sde.arrays import as_float, example_keys, per_example

SIGMAS = np.asarray([2.0, 1.0, 0.0])
SDE = ss.VP()
X = np.full((2, 4), 0.5)
LEVELS = np.asarray([0.5, 1.0])

oracle = ss.oracles.GaussianMixture(np.zeros((1, 4)), np.eye(4)[None], np.ones(1))
points = ss.oracles.PointMasses(np.eye(4))
score = ss.make_score(oracle.denoise, SDE)

CALLS = {
    "perturb": lambda key: ss.perturb(X, X, LEVELS, sde=SDE),
    "prior_log_prob": lambda key: ss.prior_log_prob(X, sde=SDE),
    "edm": lambda key: ss.precondition.edm(LEVELS),
    "make_denoiser": lambda key: ss.make_denoiser(
        lambda x, noise, cond: x, ss.precondition.edm
    )(X, LEVELS),
    "make_score": lambda key: score(X, LEVELS),
    "oracle.denoise": lambda key: oracle.denoise(X, LEVELS),
    "oracle.score": lambda key: oracle.score(X, LEVELS, sde=SDE),
    "oracle.log_prob": lambda key: oracle.log_prob(X, 0.5, sde=SDE),
    "oracle.flow": lambda key: ss.oracles.Gaussian(np.zeros(4), np.eye(4)).flow(
        X, 1.0, 0.5
    ),
    "oracle.sample": lambda key: oracle.sample(key, 3),
    "points.denoise": lambda key: points.denoise(X, LEVELS),
    "points.score": lambda key: points.score(X, LEVELS, sde=SDE),
    "convert": lambda key: ss.predictions.convert(
        X, X, source="noise", target="v", alpha=0.6, std=0.8
    ),
    "sample": lambda key: ss.sample("euler", oracle.denoise, X, SIGMAS),
    "solve_ode": lambda key: ss.solve_ode(score, SDE, X, times=[1.0, 0.5]),
    "solve_sde": lambda key: ss.solve_sde(key, score, SDE, X, times=[1.0, 0.5]),
    "log_prob": lambda key: ss.log_prob(
        X, sde=SDE, score=score, divergence="exact", times=[0.5, 1.0]
    ),
    "denoising_loss": lambda key: ss.denoising_loss(
        key,
        oracle.denoise,
        X,
        noise_levels=ss.noise_levels.LogNormal(),
        weight=ss.losses.edm,
    ),
    "continuous_bound": lambda key: ss.elbo.continuous_bound(
        key, oracle.denoise, X, sigma_min=0.1, sigma_max=10.0, num_draws=2
    ),
}


@pytest.mark.parametrize(
    "name", unless(("solve_ode", "denoising_loss").__contains__, CALLS)
)
def test_float64_of_numpy_is_float32_without_a_word_where_jax_holds_no_more(name):
    """A warning is an error in these tests."""
    with jax.enable_x64(False):
        leaves = jax.tree.leaves(CALLS[name](jr.key(0)))
    kinds = {leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert kinds == {jnp.dtype(jnp.float32)}


def test_whole_numbers_are_floats():
    whole = np.arange(6).reshape(3, 2)
    assert as_float(whole).dtype == jnp.float64
    assert as_float(jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16
    by_floats = ss.sample("heun", oracle.denoise, X * 0 + 3, SIGMAS).x
    by_ints = ss.sample("heun", oracle.denoise, np.full((2, 4), 3), [2, 1, 0]).x
    np.testing.assert_array_equal(by_ints, by_floats)


DRAWS = {
    "prior_sample": lambda key: ss.prior_sample(key, (3, 2), sde=SDE),
    "sample": lambda key: (
        ss.sample("euler_ancestral", GAUSSIAN.denoise, X, SIGMAS, key=key).x
    ),
    "continuous_bound": CALLS["continuous_bound"],
    "denoising_loss": CALLS["denoising_loss"],
    "of_each": lambda key: ss.prior_sample(jr.split(key, 3), (3, 2), sde=SDE),
}


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(draw, marks=() if name == "sample" else pytest.mark.slow)
        for name, draw in DRAWS.items()
    ],
    ids=DRAWS,
)
def test_a_key_of_words_is_the_key_that_it_means(draw):
    typed, raw = (jax.tree.leaves(draw(make(7))) for make in (jr.key, jr.PRNGKey))
    for a, b in zip(typed, raw, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_key_is_refused():
    with pytest.raises(ValueError, match=r"made by jax.random.key\(seed\), got 0"):
        ss.prior_sample(0, (3, 2), sde=SDE)
    with pytest.raises(ValueError, match="3 examples need one key or 3, got"):
        example_keys(jr.split(jr.key(0), 2), 3)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("num_columns", [1, 5])
def test_nothing_is_broadcast_unnoticed(num_columns, key):
    other = jnp.ones((2, num_columns))
    wrong = lambda x, level, cond=None: other[: len(x)]  # noqa: E731
    loss = partial(
        ss.denoising_loss,
        noise_levels=ss.noise_levels.LogNormal(),
        weight=ss.losses.edm,
    )
    calls = {
        "the denoised data": lambda: ss.sample("euler", wrong, X, SIGMAS),
        "the denoised data must": lambda: loss(key, wrong, X),
        "the score": lambda: ss.solve_ode(wrong, SDE, X),
        "eps": lambda: ss.perturb(X, other, 0.5, sde=SDE),
    }
    if num_columns == 1:  # more columns than those of x predict variances
        calls["the network's output"] = lambda: ss.make_denoiser(
            wrong, ss.precondition.v
        )(X, 0.5)
    for name, call in calls.items():
        with pytest.raises(ValueError, match=name):
            call()


def coins(key, dims, dtype):
    """As the masks of dropout are drawn."""
    return jr.bernoulli(key, 0.7, dims)


KINDS = {"normal": jr.normal, "signs": jr.rademacher, "coins": coins}
DRAWN = [(name, "float32", dims) for name in KINDS for dims in ((), (8, 8, 3))]
DRAWN += [("normal", "float64", (5,)), ("normal", "bfloat16", (5,))]


@pytest.mark.parametrize(("name", "dtype", "dims"), DRAWN)
def test_draws_of_an_example_are_of_its_key_alone(name, dtype, dims):
    """Whatever the batch is, and JAX's flag."""
    draw, dtype = KINDS[name], jnp.dtype(dtype)
    keys = example_keys(jr.key(3), 5)
    with jax.threefry_partitionable(True):
        found = per_example(draw, keys, jnp.zeros((5, *dims), dtype))
    with jax.threefry_partitionable(False):
        some = per_example(draw, keys[2:], jnp.zeros((3, *dims), dtype))
        one = draw(keys[4], dims, dtype)
    np.testing.assert_array_equal(found[2:], some)
    np.testing.assert_array_equal(found[4], one)


def test_draws_are_the_same_on_every_device():
    keys, x = example_keys(jr.key(3), 8), jnp.zeros((8, 5, 5), jnp.float32)
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    draw = jax.jit(partial(per_example, jr.normal))
    found = draw(jax.device_put(keys, cut), jax.device_put(x, cut))
    np.testing.assert_array_equal(found, draw(keys, x))


def test_draws_are_normal_and_independent():
    """Words of one hash go to different places of an example."""
    draws = per_example(
        jr.normal, example_keys(jr.key(0), 4_000), jnp.zeros((4_000, 6))
    )
    errors = np.cov(draws, rowvar=False) - np.eye(6)
    assert np.abs(errors).max() < 5 / np.sqrt(4_000) * np.sqrt(2)
    assert kstest(np.ravel(draws), "norm").pvalue > 1e-3
