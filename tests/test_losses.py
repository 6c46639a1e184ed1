from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import ALL_SDES, GAUSSIAN, close, golden, name_of, unless

import score_sde as ss
from score_sde import losses
from score_sde.losses import denoising_loss
from score_sde.noise_levels import Ladder, LogNormal, LogUniform, UniformTime
from score_sde.oracles import Gaussian

WEIGHTS = {
    name: partial(weight, sde=ss.VP()) if name == "likelihood" else weight
    for name, weight in losses.WEIGHTS.items()
}
sweep = pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)


def posterior_variance(oracle, sigma):
    """Mean over dimensions of Var[x0 given x] for Gaussian data: c s^2 / (c + s^2)."""
    eigenvalues = np.linalg.eigvalsh(oracle.covariances[0])
    sigma = np.asarray(sigma)[..., None]
    return (eigenvalues * sigma**2 / (eigenvalues + sigma**2)).mean(-1)


def expected_loss(weight, levels, oracle):
    """The loss of the exact denoiser, integrated over the distribution of sigma."""
    u = (np.arange(20_000) + 0.5) / 20_000
    sigma = levels.quantile(jnp.asarray(u))
    return float(np.mean(weight(sigma) * posterior_variance(oracle, sigma)))


@sweep
def test_loss_of_the_exact_denoiser_is_the_posterior_variance(weight, key):
    levels = LogNormal(mean=-1.0, std=0.5)
    x0 = GAUSSIAN.sample(key, 100_000)
    loss = denoising_loss(key, GAUSSIAN.denoise, x0, noise_levels=levels, weight=weight)
    assert loss.shape == (100_000,)
    error = float(loss.std()) / np.sqrt(100_000)
    assert abs(float(loss.mean()) - expected_loss(weight, levels, GAUSSIAN)) < 5 * error


@sweep
def test_the_mean_gradient_vanishes_at_the_exact_denoiser(weight, key):
    """Scaling the exact denoiser, or shifting it, can't improve it to first order."""
    x0 = GAUSSIAN.sample(key, 50_000)

    def loss(parameters):
        def denoise(x, sigma, cond=None):
            scale, shift = parameters
            return (1 + scale) * GAUSSIAN.denoise(x, sigma) + shift

        return denoising_loss(
            key, denoise, x0, noise_levels=LogNormal(-1.0, 0.5), weight=weight
        )

    per_example = jax.jacfwd(loss)(jnp.zeros(2))
    error = per_example.std(0) / np.sqrt(50_000)
    assert (np.abs(per_example.mean(0)) < 5 * error).all()


VP_TIMES = UniformTime(ss.VP(t_min=0.05, t_max=0.6))
ENDS = tuple(float(VP_TIMES.sde.sigma(t)) for t in (0.05, 0.6))


@pytest.mark.parametrize("stratified", unless(False.__eq__, [False, True]))
@pytest.mark.parametrize(
    "levels",
    [
        LogNormal(mean=-0.8, std=1.0),
        LogUniform(*ENDS),
        UniformTime(ss.CosineVP()),
        Ladder(np.geomspace(*ENDS, 401)),
    ],
    ids=name_of,
)
@sweep
def test_an_objective_is_the_same_under_any_distribution(
    weight, levels, stratified, key
):
    """Under another distribution, with the ratio of densities, it stays equal."""
    levels = type(levels)(**{**vars(levels), "stratified": stratified})
    x0 = GAUSSIAN.sample(key, 100_000)

    # The reference is a density on an interval; draws outside it don't count.
    class Reference(UniformTime):
        def density(self, sigma):
            inside = (ENDS[0] <= sigma) & (sigma <= ENDS[1])
            return jnp.where(inside, super().density(sigma), 0.0)

    loss = denoising_loss(
        key,
        GAUSSIAN.denoise,
        x0,
        noise_levels=levels,
        weight=weight,
        reference=Reference(VP_TIMES.sde),
    )
    expected = expected_loss(weight, VP_TIMES, GAUSSIAN)
    error = float(loss.std()) / np.sqrt(100_000)
    # The ladder is the midpoint rule with half a bar outside at either end: 1/400.
    slack = expected / 200 if isinstance(levels, Ladder) else 0.0
    assert abs(float(loss.mean()) - expected) < 5 * error + slack


def test_weights_are_the_published_ones():
    sigma = np.geomspace(0.01, 50, 11)
    snr = 1 / sigma**2
    published = {
        "uniform": np.ones_like(snr),
        "noise": snr,
        "truncated_snr": np.maximum(snr, 1.0),
        "sigma_squared": sigma**2 / sigma**4,
        "edm": (sigma**2 + 0.25) / (0.5 * sigma) ** 2,
        "min_snr": np.minimum(snr, 5.0),
        "soft_min_snr": snr * 4 / (snr + 4),  # gamma = 1 / sigma_data^2
        "sigmoid": snr / (1 + np.exp(np.log(snr) + 3.0)),
    }
    for name, expected in published.items():
        np.testing.assert_allclose(losses.WEIGHTS[name](sigma), expected, rtol=1e-9)
    assert published.keys() | {"likelihood"} == losses.WEIGHTS.keys()


def test_the_weights_of_the_bound_are_one_over_sigma_squared():
    """Kingma et al. 2021: the integral of |x0 - D|^2 / sigma^2 over log sigma."""
    sigma = jnp.geomspace(0.01, 50.0, 9)
    said = {name for name, weight in WEIGHTS.items() if losses.is_bound(weight)}
    true = {n for n, w in WEIGHTS.items() if np.allclose(w(sigma) * sigma**2, 1.0)}
    assert said == true == {"noise", "sigma_squared"}
    assert losses.is_bound(partial(partial(losses.noise)))
    assert not losses.is_bound(lambda sigma: sigma)


@pytest.mark.parametrize("sde", ALL_SDES, ids=name_of)
def test_likelihood_weight_is_half_g_squared_on_the_score(sde, key):
    """Against the definition: g^2/2 |s - grad log p(xt given x0)|^2 at one t."""
    t, x0, eps = 0.4 * sde.t_max, jr.normal(key, (5, 4)), jr.normal(jr.key(1), (5, 4))
    xt, std = ss.perturb(x0, eps, t, sde=sde), sde.std(t)
    score = GAUSSIAN.score(xt, t, sde=sde)
    by_score = 0.5 * sde.diffusion_squared(t) * ((score + eps / std) ** 2).mean(1)
    sigma = jnp.full(5, sde.sigma(t))
    error = GAUSSIAN.denoise(xt / sde.alpha(t), sigma) - x0
    by_denoiser = losses.likelihood(sigma, sde=sde) * (error**2).mean(1)
    np.testing.assert_allclose(by_denoiser, by_score, rtol=1e-7)


@pytest.mark.parametrize("sde", ALL_SDES, ids=name_of)
def test_likelihood_weighting_integrates_to_the_entropy_of_a_gaussian(sde, key):
    """Song et al. 2021b, thm. 1: with the exact score the bound is the entropy.

    Between the ends, sum over dimensions of the integral of the posterior variance over
    sigma^3 is half the log-determinant's change, by the I-MMSE relation.
    """
    levels = UniformTime(sde)
    weight = partial(losses.likelihood, sde=sde)
    # Quadrature in log sigma, where the integrand is smooth.
    log_sigma = np.linspace(
        np.log(sde.sigma(sde.t_min)), np.log(sde.sigma(sde.t_max)), 20_001
    )
    sigma = jnp.exp(jnp.asarray(log_sigma))
    integrand = (
        weight(sigma) * posterior_variance(GAUSSIAN, sigma) * levels.density(sigma)
    )
    total = np.trapezoid(integrand, log_sigma) * (sde.t_max - sde.t_min) * 4
    c = np.linalg.eigvalsh(GAUSSIAN.covariances[0])
    low, high = np.exp(log_sigma[[0, -1]]) ** 2
    exact = 0.5 * np.log((1 + c / low) / (1 + c / high)).sum()
    assert total == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    "case",
    [c for c in golden("edm")[0] if c["id"] == "loss/gauss4/edm"],
    ids=lambda c: c["id"],
)
def test_edm_loss_is_that_of_a_peer(case):
    arrays = golden("edm")[1]
    y, rnd, eps = (
        jnp.asarray(arrays[case["in"][k][1:]]) for k in ("y", "rnd", "noise")
    )
    sigma = jnp.exp(-1.2 + 1.2 * rnd.reshape(-1))
    weight = losses.edm(sigma, sigma_data=0.5)
    assert close(
        weight,
        arrays[case["out"]["weight"][1:]].reshape(-1),
        case["tol"]["weight"]["f64"],
    )
    error = GAUSSIAN.denoise(y + sigma[:, None] * eps, sigma) - y
    loss = weight[:, None] * error**2
    assert close(
        loss,
        arrays[case["out"]["loss"][1:]].reshape(loss.shape),
        case["tol"]["loss"]["f64"],
    )


@pytest.mark.slow
def test_learned_log_variance_is_best_at_the_log_of_the_loss(key):
    """L / exp(u) + u has its minimum log L + 1 at u = log L (Karras et al. 2024)."""
    x0 = GAUSSIAN.sample(key, 1_000)
    plain = partial(
        denoising_loss,
        key,
        GAUSSIAN.denoise,
        x0,
        noise_levels=LogNormal(),
        weight=losses.edm,
    )
    level = jnp.log(plain().mean())

    def mean(u):
        return plain(log_variance=lambda log_sigma: u + 0 * log_sigma).mean()

    assert float(jax.grad(mean)(level)) == pytest.approx(0, abs=1e-9)
    assert float(mean(level)) == pytest.approx(float(level) + 1)


def test_a_loss_depends_on_its_index_not_on_the_batch(key):
    x0 = GAUSSIAN.sample(key, 6)

    def loss(x0):
        return denoising_loss(
            key, GAUSSIAN.denoise, x0, noise_levels=LogNormal(), weight=losses.edm
        )

    np.testing.assert_allclose(loss(x0[:2]), loss(x0)[:2], rtol=1e-12)


@pytest.mark.slow
def test_score_matching_without_denoising_agrees_with_its_closed_form(key):
    """At the score of N(0, C): E = -trace(C^-1) / 2 (Hyvarinen 2005)."""
    covariance = np.asarray([[0.5, 0.2], [0.2, 0.3]])
    oracle = Gaussian(jnp.zeros(2), jnp.asarray(covariance))
    x = oracle.sample(key, 50_000)

    def score(x):
        return oracle.score(x, 0.0)

    expected = -0.5 * np.trace(np.linalg.inv(covariance))
    exact = losses.exact_score_matching(score, x)
    sliced = losses.sliced_score_matching(jr.key(1), score, x)
    for loss in (exact, sliced):
        error = float(loss.std()) / np.sqrt(50_000)
        assert abs(float(loss.mean()) - expected) < 5 * error
    # One slice per example: equal on average, not one by one.
    difference = np.asarray(sliced - exact)
    assert np.abs(difference).max() > 1e-3
    assert abs(difference.mean()) < 5 * difference.std() / np.sqrt(50_000)


@pytest.mark.slow
def test_all_forms_of_score_matching_have_the_same_minimum(key):
    """Of the scores -x / v of 2-D data, each picks v = variance of the noised data."""
    sigma, x0 = 0.5, 0.7 * jr.normal(key, (50_000, 2))
    x = x0 + sigma * jr.normal(jr.key(1), x0.shape)

    def by_denoising(v):
        def denoise(x, s, cond=None):
            return x - s[:, None] ** 2 * x / v  # Tweedie

        fixed = Ladder((sigma, sigma + 1e-9))
        return denoising_loss(
            key, denoise, x0, noise_levels=fixed, weight=losses.noise
        ).mean()

    def by_trace(v):
        return losses.exact_score_matching(lambda x: -x / v, x).mean()

    def by_slices(v):
        return losses.sliced_score_matching(jr.key(2), lambda x: -x / v, x).mean()

    variance = 0.7**2 + sigma**2
    for loss in (by_denoising, by_trace, by_slices):
        slope, curvature = jax.grad(loss)(variance), jax.grad(jax.grad(loss))(variance)
        # Newton's step to the minimum: the variance is known to 1 % from these draws.
        assert abs(float(slope / curvature)) < 0.02 * variance
