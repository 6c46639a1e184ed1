from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import ALL_SDES, GAUSSIAN, golden, name_of
from scipy.integrate import quad

import score_sde as ss
from score_sde.fields import pytree
from score_sde.sde import forward_drift, rescaled_flow

sweep = pytest.mark.parametrize("sde", ALL_SDES, ids=name_of)

VP, SUBVP, VE = ss.VP(), ss.SubVP(), ss.VE()


def beta(t):
    return 0.1 + 19.9 * t


# g^2 and f as the papers state them, none of them code of the library.
PUBLISHED = {
    "VP": (lambda t: -0.5 * beta(t), beta),
    "SubVP": (
        lambda t: -0.5 * beta(t),
        lambda t: beta(t) * -np.expm1(-2 * (0.1 * t + 9.95 * t**2)),
    ),
    "VE": (
        lambda t: 0 * t,
        lambda t: (0.01 * 5000**t) ** 2 * 2 * np.log(5000),
    ),
    "EDM": (lambda t: 0 * t, lambda t: 2 * t),
    "CosineVP": (
        lambda t: -0.5 * np.pi * np.tan(0.5 * np.pi * t),
        lambda t: np.pi * np.tan(0.5 * np.pi * t),
    ),
    "StraightLine": (lambda t: -1 / (1 - t), lambda t: 2 * t / (1 - t)),
}


@sweep
def test_drift_and_diffusion_are_the_published_ones(sde):
    t = np.linspace(sde.t_min, sde.t_max, 201)
    drift_rate, diffusion_squared = PUBLISHED[name_of(sde)]
    np.testing.assert_allclose(sde.drift_rate(t), drift_rate(t), rtol=1e-9)
    np.testing.assert_allclose(
        sde.diffusion_squared(t), diffusion_squared(t), rtol=1e-9
    )


@sweep
def test_the_formulas_hold_at_0_and_at_whole_times(sde):
    """Where the derivative of VP's sigma is infinite, and time may be an int."""
    drift_rate, diffusion_squared = PUBLISHED[name_of(sde)]
    for start in (0.0, 0):
        assert sde.drift_rate(start) == pytest.approx(drift_rate(0.0), abs=1e-15)
        # Not below 1e-19 of a time: g^2 is smooth.
        g_squared = sde.diffusion_squared(start)
        assert g_squared == pytest.approx(diffusion_squared(0.0), abs=1e-15)
        assert sde.alpha(start) == 1
        assert jnp.issubdtype(sde.sigma(start).dtype, jnp.floating)
    np.testing.assert_array_equal(sde.std([0.1, 0.2]), sde.std(np.asarray([0.1, 0.2])))


@sweep
def test_moments_solve_the_equations_of_the_sde(sde):
    """d mean/dt = f mean and d var/dt = 2 f var + g^2 (Sarkka and Solin 2019, 6.2)."""
    t = jnp.linspace(sde.t_min, sde.t_max, 101)
    d_alpha = jax.vmap(jax.grad(sde.alpha))(t)
    np.testing.assert_allclose(d_alpha, sde.drift_rate(t) * sde.alpha(t), rtol=1e-8)
    d_variance = jax.vmap(jax.grad(lambda t: sde.std(t) ** 2))(t)
    expected = 2 * sde.drift_rate(t) * sde.std(t) ** 2 + sde.diffusion_squared(t)
    scale = np.abs(2 * sde.drift_rate(t) * sde.std(t) ** 2) + sde.diffusion_squared(t)
    assert (np.abs(d_variance - expected) <= 1e-8 * scale).all()


@sweep
def test_log_alpha_is_the_integral_of_the_drift_rate(sde):
    start, end = 0.3 * sde.t_max, 0.9 * sde.t_max
    integral, _ = quad(lambda t: float(sde.drift_rate(t)), start, end)
    difference = sde.log_alpha(end) - sde.log_alpha(start)
    assert float(difference) == pytest.approx(integral, rel=1e-9, abs=1e-12)


@sweep
@pytest.mark.parametrize(
    "name", ["alpha", "sigma", "std", "drift_rate", "diffusion_squared"]
)
def test_float32_holds_from_1e_5_to_t_max(sde, name):
    t = np.geomspace(1e-5, sde.t_max, 2_000).astype(np.float32)
    near_the_end = np.linspace(0.9 * sde.t_max, sde.t_max, 1_000).astype(np.float32)
    t = np.concatenate([t[t <= sde.t_max], near_the_end[near_the_end <= sde.t_max]])
    method = jax.jit(getattr(sde, name))
    single, double = method(jnp.asarray(t)), method(jnp.asarray(t, jnp.float64))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, double, rtol=1e-6, atol=0)


@sweep
def test_std_is_alpha_sigma_and_log_snr_their_ratio(sde):
    t = jnp.linspace(sde.t_min, sde.t_max, 11)
    np.testing.assert_allclose(sde.std(t), sde.alpha(t) * sde.sigma(t), rtol=1e-12)
    log_snr = 2 * np.log(sde.alpha(t) / sde.std(t))
    np.testing.assert_allclose(sde.log_snr(t), log_snr, rtol=1e-9, atol=1e-9)
    assert (np.diff(sde.sigma(t)) > 0).all()


@pytest.mark.parametrize("sde", [VP, ss.CosineVP()], ids=name_of)
def test_variance_preserving_sdes_preserve_variance(sde):
    t = jnp.linspace(sde.t_min, sde.t_max, 101)
    np.testing.assert_allclose(sde.alpha(t) ** 2 + sde.std(t) ** 2, 1, rtol=1e-12)


def test_published_constants_of_vp_and_subvp():
    """alpha(1), std(1), std(1e-3), std(1e-5) of the published CIFAR-10 settings."""
    for value, expected in (
        (VP.alpha(1.0), 6.57e-3),
        (VP.std(1.0), 0.99998),
        (VP.std(1e-3), 0.01049),
        (VP.std(1e-5), 1.0005e-3),
        (SUBVP.std(1e-5), 1.001e-6),
    ):
        assert float(value) == pytest.approx(expected, rel=1e-3)


def test_sigma_of_vp_is_that_of_a_peer():
    (case,) = [c for c in golden("edm")[0] if c["function"] == "edm.vp_sigma"]
    arrays = golden("edm")[1]
    t = jnp.asarray(arrays[case["in"]["t"][1:]])
    sigma = arrays[case["out"]["sigma"][1:]]
    np.testing.assert_allclose(VP.sigma(t), sigma, rtol=1e-9)
    np.testing.assert_allclose(VP.t_from_sigma(sigma), t, rtol=1e-9)


@sweep
def test_t_from_sigma_inverts_sigma(sde):
    t = jnp.geomspace(sde.t_min, sde.t_max, 201)
    np.testing.assert_allclose(sde.t_from_sigma(sde.sigma(t)), t, rtol=1e-9)
    bisected = ss.SDE.t_from_sigma(sde, sde.sigma(t))
    np.testing.assert_allclose(bisected, t, rtol=1e-9)


@pytree
class Linear(ss.SDE):
    """A user's own SDE, from two formulas."""

    speed: float = 3.0

    def log_alpha(self, t):
        return -self.speed * t

    def sigma(self, t):
        return self.speed * t


def test_a_users_sde_needs_two_formulas_only(key):
    sde, oracle = Linear(), GAUSSIAN
    t = sde.t_from_sigma(1.5)
    assert float(t) == pytest.approx(0.5, rel=1e-9)

    def score(xt, t, cond=None):
        return oracle.score(xt, t, sde=sde)

    x = oracle.sample(key, 4)
    out = ss.solve_ode(score, sde, x, t0=sde.t_min, t1=sde.t_max, rtol=1e-9, atol=1e-9)
    start, end = sde.t_min, sde.t_max
    carried = oracle.flow(x / sde.alpha(start), sde.sigma(start), sde.sigma(end))
    np.testing.assert_allclose(out.x, sde.alpha(end) * carried, rtol=1e-6)


@sweep
def test_fields_are_reached_by_jit_vmap_and_grad(sde):
    t = 0.5 * sde.t_max
    assert jax.jit(lambda sde: sde.std(t))(sde) == pytest.approx(float(sde.std(t)))
    leaves, tree = jax.tree.flatten(sde)
    stacked = jax.tree.unflatten(tree, [jnp.asarray([leaf, leaf]) for leaf in leaves])
    np.testing.assert_allclose(jax.vmap(lambda s: s.sigma(t))(stacked), sde.sigma(t))
    assert all(np.isfinite(jax.tree.leaves(jax.grad(lambda s: s.std(t))(sde))))


def test_gradient_with_respect_to_beta_is_the_difference_quotient():
    def std(beta_max):
        return ss.VP(beta_max=beta_max).std(0.3)

    step = 1e-5
    quotient = (std(20.0 + step) - std(20.0 - step)) / (2 * step)
    assert float(jax.grad(std)(20.0)) == pytest.approx(float(quotient), rel=1e-6)


@sweep
def test_perturbed_data_have_the_marginals_moments(sde, key):
    t = 0.4 * sde.t_max
    x0 = GAUSSIAN.sample(key, 20_000)
    xt = ss.perturb(x0, jr.normal(jr.key(1), x0.shape), t, sde=sde)
    covariance = sde.alpha(t) ** 2 * GAUSSIAN.covariance() + sde.std(t) ** 2 * np.eye(4)
    # Five standard errors of a covariance estimated from 20,000 draws.
    error = 5 * np.sqrt(2 / 20_000) * np.max(covariance)
    np.testing.assert_allclose(np.cov(xt.T), covariance, atol=error)


@sweep
def test_probability_flow_follows_the_exact_flow_of_a_gaussian(sde):
    """The time derivative of the closed-form flow map is the drift."""
    x, t = jnp.asarray([[0.3, -0.2, 0.5, 0.1]]), 0.4 * sde.t_max

    def score(xt, t, cond=None):
        return GAUSSIAN.score(xt, t, sde=sde)

    def carried(s):
        scaled = GAUSSIAN.flow(x / sde.alpha(t), sde.sigma(t), sde.sigma(s))
        return sde.alpha(s) * scaled

    velocity = jax.jvp(carried, (t,), (1.0,))[1]
    drift = ss.probability_flow(x, t, sde=sde, score=score)
    np.testing.assert_allclose(drift, velocity, rtol=1e-9)
    # The same in the variables of the solvers: x / alpha as a function of log sigma.
    rescaled = rescaled_flow(x, jnp.log(sde.sigma(t)), sde=sde, score=score)
    exact = jax.jvp(
        lambda s: GAUSSIAN.flow(x, sde.sigma(t), jnp.exp(s)),
        (jnp.log(sde.sigma(t)),),
        (1.0,),
    )[1]
    np.testing.assert_allclose(rescaled, exact, rtol=1e-9)


@pytest.mark.slow
@sweep
def test_reverse_drift_leaves_the_marginals_unchanged(sde):
    """Fokker-Planck: the reverse drift is the forward one minus g^2 times the score."""
    x, t = jnp.asarray([[0.3, -0.2, 0.5, 0.1]]), 0.4 * sde.t_max

    def score(xt, t, cond=None):
        return GAUSSIAN.score(xt, t, sde=sde)

    def log_density(x, t):
        return GAUSSIAN.log_prob(x[None], t, sde=sde)[0]

    # Backwards in time the density solves d log p/dt = -div b - b . score - g^2/2 (...)
    def reverse(x):
        return ss.reverse_drift(x[None], t, sde=sde, score=score)[0]

    slope = jax.grad(log_density)(x[0], t)
    laplacian = jnp.trace(jax.hessian(log_density)(x[0], t))
    g_squared = sde.diffusion_squared(t)
    divergence = jnp.trace(jax.jacfwd(reverse)(x[0]))
    change = -divergence - reverse(x[0]) @ slope
    change = change - 0.5 * g_squared * (laplacian + slope @ slope)
    expected = jax.grad(log_density, argnums=1)(x[0], t)
    assert float(change) == pytest.approx(float(expected), rel=1e-8)
    forward = forward_drift(x, t, sde=sde)
    np.testing.assert_allclose(forward, sde.drift_rate(t) * x)


@sweep
def test_prior_is_the_gaussian_of_std_at_t_max(sde, key):
    x = ss.prior_sample(key, (4_000, 3), sde=sde)
    std = float(sde.std(sde.t_max))
    # Standard error of a standard deviation from 12,000 draws: 0.65 %.
    assert float(x.std()) == pytest.approx(std, rel=0.03)
    from scipy.stats import norm

    expected = norm.logpdf(np.asarray(x[:5]), scale=std).sum(1)
    np.testing.assert_allclose(ss.prior_log_prob(x[:5], sde=sde), expected, rtol=1e-9)


def test_a_prior_sample_does_not_depend_on_its_batch(key):
    few = ss.prior_sample(key, (3, 2), sde=VP)
    many = ss.prior_sample(key, (7, 2), sde=VP)
    np.testing.assert_array_equal(few, many[:3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ss.VP(beta_min=-1.0), "VP: beta_min is -1.0; it must be > 0"),
        (lambda: ss.VP(beta_min=3.0, beta_max=2.0), "needs beta_min <= beta_max, got"),
        (lambda: ss.VP(beta_max=float("nan")), "beta_max is nan; it must be a number"),
        (lambda: ss.VE(sigma_min=0.0), "sigma_min is 0.0; it must be > 0"),
        (lambda: ss.EDM(t_min=0.0), "t_min is 0.0; it must be > 0"),
        (lambda: ss.EDM(t_min=3.0, t_max=2.0), "EDM needs t_min < t_max, got"),
        (lambda: ss.StraightLine(t_max=1.0), "needs t_min < t_max < 1, got"),
        (lambda: ss.CosineVP(t_min=0.5, t_max=0.4), "needs t_min < t_max < 1, got"),
    ],
)
def test_bad_settings_name_the_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@sweep
@pytest.mark.parametrize("t", [-0.01, 500.0, [0.1, float("nan"), 0.2]])
def test_a_time_that_the_sde_lacks_is_refused(sde, t):
    """The number of a step above all, for which the formulas give numbers too."""
    x, t = jnp.ones((3, 4)), jnp.asarray(t)
    functions = {
        "perturb": lambda t: ss.perturb(x, x, t, sde=sde),
        "probability_flow": lambda t: ss.probability_flow(x, t, sde=sde, score=score),
        "reverse_drift": lambda t: ss.reverse_drift(x, t, sde=sde, score=score),
        "score": lambda t: ss.make_score(GAUSSIAN.denoise, sde)(x, t),
        "oracle": lambda t: GAUSSIAN.score(x, t, sde=sde),
    }
    score = lambda x, t, cond=None: x
    for function in functions.values():
        with pytest.raises(ValueError, match=r"^t is .*; it must be from 0 to t_max"):
            function(t)
        function(jnp.float32(sde.t_max))
        jax.jit(partial(function, 0.5 * sde.t_max))()  # known there
        jax.jit(function)(t)  # has no value to see
