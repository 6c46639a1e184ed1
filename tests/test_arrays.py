"""What users bring: NumPy's float64, whole numbers, keys of either kind."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import GAUSSIAN

import score_sde as ss
from score_sde.arrays import as_float, example_keys

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


@pytest.mark.parametrize("name", CALLS)
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


@pytest.mark.parametrize(
    "draw",
    [
        lambda key: ss.prior_sample(key, (3, 2), sde=SDE),
        lambda key: (
            ss.sample("euler_ancestral", GAUSSIAN.denoise, X, SIGMAS, key=key).x
        ),
        CALLS["continuous_bound"],
        CALLS["denoising_loss"],
        lambda key: ss.prior_sample(jr.split(key, 3), (3, 2), sde=SDE),
    ],
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
