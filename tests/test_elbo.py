from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest
from cases import GAUSSIAN, MIXTURE, close, golden, problems, unless
from scipy import stats

import score_sde as ss
from score_sde import elbo

CASES, ARRAYS = golden("openai_bound")
LEVELS = np.linspace(-1, 1, 256)  # the peer's scale: centres from end to end
PEER = elbo.discretised_decoder(2 / 255)


def cases_of(function):
    cases = [c for c in CASES if c["function"] == function]
    return pytest.mark.parametrize("case", cases, ids=lambda c: c["id"])


def chain(given):
    """The levels of the peer's schedule, increasing."""
    alpha_bar = ARRAYS[f"schedule/{given['kind']}/T{given['T']}/alphas_cumprod"]
    return jnp.asarray(np.sqrt(1 / alpha_bar - 1))


def denoiser_of(case):
    oracle, clip = problems()[case["problem"]], case["in"].get("clip_denoised", False)

    def denoise(x, sigma, cond=None):
        x0 = oracle.denoise(x, sigma)
        return x0.clip(-1, 1) if clip else x0

    return denoise


def reverse_of(case):
    denoise, kind = denoiser_of(case), case["in"]["var_type"].lower()
    if kind == "learned_range":
        v = jnp.asarray(ARRAYS["var_values"])[None]
        return elbo.with_learned_variance(
            lambda x, sigma, cond: (denoise(x, sigma), jnp.broadcast_to(v, x.shape))
        )
    return elbo.with_fixed_variance(denoise, elbo.VARIANCES[kind])


def in_bits(nats, num_dims=4):
    return np.asarray(nats) / (num_dims * np.log(2))


def test_bins_have_the_mass_of_the_exact_normal():
    """The peer approximates the normal distribution function; ours is exact."""
    case = next(c for c in CASES if c["id"] == "discretized_ll")
    x, mean, log_std = (
        jnp.asarray(ARRAYS[case["in"][k][1:]]) for k in ("x", "means", "log_scales")
    )
    ours = elbo.bin_log_prob(x, mean, jnp.exp(log_std), width=2 / 255)
    exact = ARRAYS[case["out"]["logp_exact"][1:]]
    seen = exact > np.log(1e-12) + 1e-6  # below, the reference is clamped
    assert seen.sum() >= 10
    tolerance = case["tol"]["logp_exact"]["f64"]
    assert close(ours[seen], exact[seen], tolerance)
    # Beyond the clamp, against the mean density over the bin times its width.
    z = (np.asarray(x) - np.asarray(mean)) / np.exp(np.asarray(log_std))
    assert np.isfinite(ours).all()
    assert (ours[~seen] < np.log(1e-12) + 1e-6).all()
    assert (np.abs(z[~seen]) > 5).all()


@pytest.mark.parametrize("num_levels", unless((17).__eq__, [2, 17, 256]))
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float64, 1e-12), (jnp.float32, 1e-5)]
)
def test_the_decoder_is_a_distribution_over_the_levels(num_levels, dtype, tolerance):
    """In the scale of the data here, bins of 2 / num_levels, and far outside it."""
    centres = (2 * jnp.arange(num_levels, dtype=dtype) + 1) / num_levels - 1
    mean, log_std = jnp.meshgrid(
        jnp.asarray([-3.0, -1.0, -0.3, 0.0, 0.99, 2.0], dtype),
        jnp.asarray([-6.0, -3.0, -1.0, 1.0], dtype),
    )
    log_mass = elbo.bin_log_prob(
        centres[:, None],
        mean.reshape(1, -1),
        jnp.exp(log_std).reshape(1, -1),
        width=2 / num_levels,
    )
    assert log_mass.dtype == dtype
    total = jax.scipy.special.logsumexp(log_mass, axis=0)
    np.testing.assert_allclose(total, 0.0, atol=tolerance)


def test_bins_in_the_far_tail_are_those_of_scipy():
    x, mean, std, width = 0.5, -0.5, 0.05, 2 / 17  # 19 to 21 standard deviations
    ends = (x - mean + np.asarray([-1, 1]) * width / 2) / std
    above = stats.norm.logsf(ends)
    expected = above[0] + np.log1p(-np.exp(above[1] - above[0]))
    ours = elbo.bin_log_prob(*map(jnp.asarray, (x, mean, std)), width=width)
    assert float(ours) == pytest.approx(expected, rel=1e-12)


@cases_of("gd.vb_terms")
def test_terms_of_the_chain_are_those_of_the_peer(case):
    given, sigmas = case["in"], chain(case["in"])
    x0, eps = (jnp.asarray(ARRAYS[k]) for k in ("x_start", "noise"))
    index = jnp.asarray(ARRAYS[given["t"][1:]])
    nats, _ = elbo.chain_term(
        reverse_of(case),
        x0,
        eps,
        index,
        sigmas=sigmas,
        decoder=PEER,
    )
    expected = ARRAYS[case["out"]["vb"][1:]]
    tolerance = case["tol"]["vb"]["f64"]
    later = np.asarray(index) > 0
    assert close(in_bits(nats)[later], expected[later], tolerance)
    # L_0 differs by the peer's approximation: up to 0.1 nats in the tails.
    np.testing.assert_allclose(in_bits(nats)[~later], expected[~later], atol=0.1)
    prior = elbo.prior_term(x0, sigmas[-1], prior_variance=1 + sigmas[-1] ** 2)
    expected = ARRAYS[case["out"]["prior_bpd"][1:]]
    # log(std^2) of a std^2 next to 1 rounds in the peer: 1e-16 of 4e-5.
    np.testing.assert_allclose(in_bits(prior), expected, rtol=1e-9, atol=1e-14)


@cases_of("gd.total_bpd")
def test_the_bound_of_a_chain_is_that_of_the_peer(case):
    given, sigmas = case["in"], chain(case["in"])
    tape = jnp.asarray(ARRAYS[given["noise_tape"][1:]], jnp.float64)[::-1]
    bound = elbo.chain_bound(
        None,
        reverse_of(case),
        jnp.asarray(ARRAYS["x_start"]),
        sigmas=sigmas,
        decoder=PEER,
        noise=tape,
    )
    expected = ARRAYS[case["out"]["vb"][1:]][:, ::-1]
    assert close(in_bits(bound.steps), expected[:, 1:], case["tol"]["vb"]["f64"])
    np.testing.assert_allclose(in_bits(bound.decoder), expected[:, 0], atol=0.1)
    errors = ARRAYS[case["out"]["xstart_mse"][1:]][:, ::-1][:, 1:]
    assert close(bound.squared_error, errors, case["tol"]["xstart_mse"]["f64"])
    total = ARRAYS[case["out"]["total_bpd"][1:]] - expected[:, 0]
    ours = in_bits(bound.nats - bound.decoder)
    assert close(ours, total, case["tol"]["total_bpd"]["f64"])


@cases_of("gd.training_losses")
def test_the_hybrid_loss_is_that_of_the_peer(case):
    given, sigmas = case["in"], chain(case["in"])
    index = jnp.asarray(ARRAYS[given["t"][1:]])
    x0, eps = (jnp.asarray(ARRAYS[k]) for k in ("x_start", "noise"))
    simple, bound = elbo.hybrid_terms(
        reverse_of(case),
        x0,
        eps,
        index,
        sigmas=sigmas,
        decoder=PEER,
    )
    kind, later = given["loss_type"], np.asarray(index) > 0
    if given["mean_type"] == "START_X":  # the squared error of x0 itself
        simple = simple * sigmas[index] ** 2
    scale = given["T"] if kind == "RESCALED_KL" else 1.0
    weight = given["T"] / 1000 if kind == "RESCALED_MSE" else 1.0
    if "vb" in case["out"]:
        expected = ARRAYS[case["out"]["vb"][1:]]
        tolerance = case["tol"]["vb"]["f64"]
        assert close((weight * bound)[later], expected[later], tolerance)
    if "mse" in case["out"]:
        expected = ARRAYS[case["out"]["mse"][1:]]
        assert close(simple, expected, case["tol"]["mse"]["f64"])
    loss = scale * bound if "KL" in kind else simple
    if "vb" in case["out"]:
        loss = loss + weight * bound
    expected = ARRAYS[case["out"]["loss"][1:]]
    assert close(loss[later], expected[later], case["tol"]["loss"]["f64"])


@pytest.mark.slow
def test_the_hybrid_loss_trains_the_variance_by_the_bound_alone(key):
    """Its mean is trained by the squared error of the noise, whatever the weight."""
    x0, sigmas = GAUSSIAN.sample(key, 64), jnp.geomspace(0.05, 20.0, 10)

    def loss(parameters, weight):
        shift, share = parameters
        return elbo.hybrid_loss(
            jr.key(1),
            elbo.with_learned_variance(
                lambda x, sigma, cond: (
                    GAUSSIAN.denoise(x, sigma) + shift,
                    jnp.full_like(x, share),
                )
            ),
            x0,
            sigmas=sigmas,
            decoder=elbo.gaussian_decoder,
            bound_weight=weight,
        ).mean()

    at = jnp.asarray([0.1, 0.5])
    once, twice = (jax.grad(loss)(at, weight) for weight in (1e-3, 2e-3))
    np.testing.assert_allclose(twice[0], once[0], rtol=1e-12)
    np.testing.assert_allclose(twice[1], 2 * once[1], rtol=1e-12)
    assert once[1] != 0.0


def entropy(oracle):
    """Of the Gaussian, in nats."""
    return (
        0.5 * np.linalg.slogdet(2 * np.pi * np.e * np.asarray(oracle.covariance()))[1]
    )


def expected_bound(oracle, low, high):
    """The continuous bound of the exact denoiser, in expectation over the data.

    With c an eigenvalue of the covariance, the posterior variance c s^2 / (c + s^2)
    integrates to log((s^2) / (c + s^2)) / 2 between the ends.
    """
    c, mean = np.linalg.eigvalsh(oracle.covariance()), np.asarray(oracle.mean())
    prior = 0.5 * (c.sum() + (mean**2).sum()) / high**2
    steps = 0.5 * np.log(high**2 * (c + low**2) / (low**2 * (c + high**2))).sum()
    decoder = 0.5 * (np.log(2 * np.pi * low**2) + c / (c + low**2)).sum()
    return prior + steps + decoder


@pytest.mark.slow
def test_the_continuous_bound_of_a_gaussian_is_its_entropy_plus_a_known_gap(key):
    """Which is the decoder's: the posterior at sigma_min is narrower than it says."""
    x0 = GAUSSIAN.sample(key, 20_000)
    for low, gap in ((0.02, 0.01), (0.2, 1.0)):
        bound = elbo.continuous_bound(
            jr.key(1),
            GAUSSIAN.denoise,
            x0,
            sigma_min=low,
            sigma_max=50.0,
            num_draws=20,
        )
        expected = expected_bound(GAUSSIAN, low, 50.0)
        error = float(bound.nats.std()) / np.sqrt(20_000)
        assert abs(float(bound.nats.mean()) - expected) < 4 * error
        assert 0 < expected - entropy(GAUSSIAN) < gap
        # Each image's bound is an estimate of its own: its log-density plus the gap.
        nll = -GAUSSIAN.log_prob(x0, 0.0)
        off = np.asarray(bound.nats - nll)
        assert abs(off.mean() - (expected - entropy(GAUSSIAN))) < 4 * off.std() / 141


@pytest.mark.slow
def test_the_chain_approaches_the_continuous_bound_at_first_order(key):
    """The excess of a chain over the integral halves when its steps double."""
    c = np.linalg.eigvalsh(GAUSSIAN.covariance())
    excess = []
    for num_steps in (50, 100, 200):
        sigmas = np.geomspace(0.05, 50.0, num_steps + 1)
        s, t = sigmas[:-1, None], sigmas[1:, None]
        exact = (0.5 * (1 / s**2 - 1 / t**2) * c * t**2 / (c + t**2)).sum()
        x0 = GAUSSIAN.sample(key, 1_000)
        bound = elbo.chain_bound(
            jr.key(1),
            elbo.with_fixed_variance(GAUSSIAN.denoise),
            x0,
            sigmas=jnp.asarray(sigmas),
            decoder=elbo.gaussian_decoder,
        )
        steps = bound.steps.sum(1)
        error = float(steps.std()) / np.sqrt(1_000)
        assert abs(float(steps.mean()) - exact) < 4 * error
        integral = 0.5 * np.log(50.0**2 * (c + 0.05**2) / (0.05**2 * (c + 50.0**2)))
        excess.append(exact - integral.sum())
    rate = np.log2(np.asarray(excess[:-1]) / np.asarray(excess[1:]))
    np.testing.assert_allclose(rate, 1.0, atol=0.1)


@pytest.mark.slow
def test_the_bound_is_above_the_negative_log_likelihood(key):
    """Tight for the exact denoiser, and above for one that is not, by what it loses."""
    x0 = MIXTURE.sample(key, 2_000)
    exact = -np.asarray(MIXTURE.log_prob(x0, 0.0)).mean()

    def worse(x, sigma, cond=None):
        return 0.9 * MIXTURE.denoise(x, sigma)

    solve = partial(
        elbo.continuous_bound, jr.key(1), x0=x0, sigma_min=0.01, sigma_max=50.0
    )
    good, bad = (solve(denoise=d).nats for d in (MIXTURE.denoise, worse))
    error = float(good.std()) / np.sqrt(2_000)
    assert exact - 3 * error < float(good.mean()) < exact + 0.02 + 3 * error
    sde = ss.EDM(t_min=0.01, t_max=50.0)
    nats = ss.log_prob(
        x0[:200],
        sde=sde,
        score=ss.make_score(worse, sde),
        divergence="exact",
        rtol=1e-4,
        atol=1e-4,
    ).nats
    assert float(bad[:200].mean()) > -float(nats.mean())


@pytest.mark.slow
def test_the_bound_of_levels_is_above_their_entropy(key):
    """A Gaussian in 17 levels: its masses are known, and so is the best code."""
    width, std = 2 / 17, 0.3
    edges = np.linspace(-1, 1, 18)
    edges[[0, -1]] = -np.inf, np.inf
    mass = np.diff(stats.norm.cdf(edges, scale=std))
    centres = jnp.asarray((2 * np.arange(17) + 1) / 17 - 1)
    x0 = jr.choice(key, centres, (20_000, 1), p=jnp.asarray(mass))
    points = ss.oracles.GaussianMixture(
        centres[:, None], jnp.zeros((17, 1, 1)), jnp.asarray(mass)
    )
    bound = elbo.continuous_bound(
        jr.key(1),
        points.denoise,
        x0,
        sigma_min=width / 8,
        sigma_max=20.0,
        decoder=elbo.discretised_decoder(width),
        num_draws=20,
    )
    exact = -(mass * np.log(mass)).sum()
    error = float(bound.nats.std()) / np.sqrt(20_000)
    # At an eighth of a bin the level is as good as known: the exact reverse SDE of
    # the levels codes them at their entropy, the prior aside (std^2 / sigma_max^2).
    assert float(bound.nats.mean()) == pytest.approx(exact, abs=4 * error + 1e-3)
    assert error < 0.02


@pytest.mark.slow
def test_an_examples_bound_does_not_depend_on_its_batch(key):
    x0 = GAUSSIAN.sample(key, 6)
    continuous = partial(
        elbo.continuous_bound, sigma_min=0.1, sigma_max=20.0, num_draws=4
    )
    chain = partial(
        elbo.chain_bound,
        sigmas=jnp.geomspace(0.1, 20.0, 4),
        decoder=elbo.gaussian_decoder,
    )
    reverse = elbo.with_fixed_variance(GAUSSIAN.denoise)
    for solve, model in ((continuous, GAUSSIAN.denoise), (chain, reverse)):
        whole = solve(key, model, x0).nats
        np.testing.assert_allclose(solve(key, model, x0[:2]).nats, whole[:2], rtol=1e-9)
        x32 = solve(key, model, x0.astype(jnp.float32)).nats
        assert x32.dtype == jnp.float32
        assert np.isfinite(x32).all()


def test_a_chain_without_randomness_is_refused():
    with pytest.raises(ValueError, match="needs a key, or the noise"):
        elbo.chain_bound(
            None,
            elbo.with_fixed_variance(GAUSSIAN.denoise),
            jnp.ones((1, 4)),
            sigmas=jnp.asarray([1.0, 2.0]),
            decoder=elbo.gaussian_decoder,
        )


@pytest.mark.parametrize(
    "sigmas", [[3.0, 0.1], [0.1, 0.1], [0.0, 1.0], [-2.0, 1.0], [0.1, np.nan], []]
)
def test_levels_that_do_not_rise_are_refused(sigmas):
    x0, key = jnp.zeros((2, 3)), jr.key(0)
    reverse = elbo.with_fixed_variance(lambda x, sigma, cond: x, elbo.fixed_small)
    given = {"sigmas": np.asarray(sigmas), "decoder": elbo.gaussian_decoder}
    with pytest.raises(ValueError, match="sigmas must be finite, above 0 and rise"):
        elbo.chain_bound(key, reverse, x0, **given)
    with pytest.raises(ValueError, match="sigmas must be finite, above 0 and rise"):
        elbo.hybrid_loss(key, reverse, x0, **given)
    if len(sigmas) == 2:
        low, high = sigmas
        with pytest.raises(ValueError, match="sigma_min and sigma_max must be finite"):
            elbo.continuous_bound(
                key, lambda x, sigma, cond: x, x0, sigma_min=low, sigma_max=high
            )


def test_noise_of_other_levels_is_refused():
    reverse = elbo.with_fixed_variance(lambda x, sigma, cond: x, elbo.fixed_small)
    # The types say so where they are checked, as they are here, and the values else.
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match="noise"):
        elbo.chain_bound(
            None,
            reverse,
            jnp.zeros((1, 3)),
            sigmas=jnp.asarray([0.1, 1.0, 2.0]),
            decoder=elbo.gaussian_decoder,
            noise=jnp.zeros((2, 1, 3)),
        )
