import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import ALL_SDES, name_of

from score_sde.predictions import PREDICTIONS, convert, posterior_mean


def levels(sde):
    """alpha and std at t, and at an earlier time."""
    t, s = 0.6 * sde.t_max, 0.3 * sde.t_max
    return (sde.alpha(t), sde.std(t)), (sde.alpha(s), sde.std(s))


def named(sde):
    _, earlier = levels(sde)
    return PREDICTIONS | {"posterior_mean": posterior_mean(*earlier)}


@pytest.mark.parametrize("sde", ALL_SDES, ids=name_of)
@pytest.mark.parametrize("source", [*PREDICTIONS, "posterior_mean"])
@pytest.mark.parametrize("target", [*PREDICTIONS, "posterior_mean"])
def test_all_pairs_round_trip(sde, source, target, key):
    (alpha, std), _ = levels(sde)
    x0, eps = jr.normal(key, (2, 5, 3))
    xt = alpha * x0 + std * eps
    made = named(sde)
    value = made[source].encode(x0, eps, alpha, std)
    there = convert(
        value, xt, source=made[source], target=made[target], alpha=alpha, std=std
    )
    expected = made[target].encode(x0, eps, alpha, std)
    np.testing.assert_allclose(there, expected, rtol=1e-8, atol=1e-10)
    back = convert(
        there, xt, source=made[target], target=made[source], alpha=alpha, std=std
    )
    np.testing.assert_allclose(back, value, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("sde", ALL_SDES, ids=name_of)
def test_defining_identities(sde, key):
    """Each prediction from xt, x0 and eps, as the papers define it."""
    (alpha, std), _ = levels(sde)
    x0, eps = jr.normal(key, (2, 5, 3))
    xt = alpha * x0 + std * eps

    def to(target):
        return convert(eps, xt, source="noise", target=target, alpha=alpha, std=std)

    np.testing.assert_allclose(to("x0"), x0, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(to("v"), alpha * eps - std * x0, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(to("velocity"), eps - x0, rtol=1e-8, atol=1e-10)
    # The score of N(alpha x0, std^2) at xt.
    np.testing.assert_allclose(to("score"), (alpha * x0 - xt) / std**2, rtol=1e-8)


def test_posterior_mean_is_that_of_the_ddpm_chain(key):
    """Ho et al. 2020, eq. 7, in their letters, on their chain of 1000 steps."""
    beta = np.linspace(1e-4, 0.02, 1000)
    abar = np.cumprod(1 - beta)
    t = 400
    x0, eps = jr.normal(key, (2, 5, 3))
    xt = np.sqrt(abar[t]) * x0 + np.sqrt(1 - abar[t]) * eps
    mean = (
        np.sqrt(abar[t - 1]) * beta[t] / (1 - abar[t]) * x0
        + np.sqrt(1 - beta[t]) * (1 - abar[t - 1]) / (1 - abar[t]) * xt
    )
    result = convert(
        eps,
        xt,
        source="noise",
        target=posterior_mean(np.sqrt(abar[t - 1]), np.sqrt(1 - abar[t - 1])),
        alpha=np.sqrt(abar[t]),
        std=np.sqrt(1 - abar[t]),
    )
    np.testing.assert_allclose(result, mean, rtol=1e-8, atol=1e-10)


def test_levels_may_differ_per_example(key):
    x0, eps = jr.normal(key, (2, 2, 3))
    alpha, std = jnp.asarray([0.9, 0.5]), jnp.asarray([0.2, 1.5])
    xt = alpha[:, None] * x0 + std[:, None] * eps
    x0_again = convert(eps, xt, source="noise", target="x0", alpha=alpha, std=std)
    np.testing.assert_allclose(x0_again, x0, rtol=1e-8)


def test_unknown_names_are_answered_with_the_choices():
    with pytest.raises(
        ValueError, match=r"unknown prediction 'eps'; choose from \['noise"
    ):
        convert(
            jnp.ones((1, 1)),
            jnp.ones((1, 1)),
            source="eps",
            target="x0",
            alpha=1.0,
            std=1.0,
        )
