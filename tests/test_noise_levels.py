import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats
from cases import ALL_SDES, name_of

import score_sde as ss
from score_sde.noise_levels import (
    CosineInterpolated,
    Ladder,
    Learned,
    LikelihoodImportance,
    LogLogistic,
    LogNormal,
    LogUniform,
    SplitLogNormal,
    UniformTime,
)

LADDER = Ladder(np.geomspace(0.01, 50.0, 200))
CONTINUOUS = [
    *(UniformTime(sde) for sde in ALL_SDES),
    LogNormal(),
    LogUniform(),
    LikelihoodImportance(ss.VP()),
    Learned(ss.EDM(), num_bins=4, logits=jnp.asarray([0.0, 1.0, -1.0, 0.5])),
    LogLogistic(),
    LogLogistic(mean=-1.0, scale=0.8, sigma_min=0.05, sigma_max=3.0),
    SplitLogNormal(mode=-1.0, std_low=0.5, std_high=1.5),
    CosineInterpolated(image_size=256),
]
ALL = [*CONTINUOUS, LADDER]
sweep = pytest.mark.parametrize("levels", ALL, ids=repr)


def test_every_registered_distribution_is_swept():
    made = {type(levels) for levels in ALL}
    for make in ss.noise_levels.NOISE_LEVELS.values():
        assert make in made


@pytest.mark.parametrize("levels", CONTINUOUS, ids=repr)
def test_the_density_is_the_slope_of_the_distribution_function(levels):
    """density(sigma) = du / d log sigma along the quantile function."""
    u = jnp.linspace(0.01, 0.99, 99)
    slope = jax.vmap(jax.grad(lambda u: jnp.log(levels.quantile(u))))(u)
    np.testing.assert_allclose(levels.density(levels.quantile(u)), 1 / slope, rtol=1e-6)


@sweep
def test_the_density_integrates_to_one(levels):
    u = jnp.linspace(1e-6, 1 - 1e-6, 400_001)
    log_sigma = jnp.log(levels.quantile(u))
    if levels is LADDER:
        # Bars of the histogram: one evaluation per level times its width.
        log_sigmas = np.log(LADDER.sigmas)
        width = log_sigmas[1] - log_sigmas[0]
        total = (levels.density(jnp.asarray(LADDER.sigmas)) * width).sum()
    else:
        total = jnp.trapezoid(levels.density(jnp.exp(log_sigma)), log_sigma)
    assert float(total) == pytest.approx(1, abs=1e-3)


@sweep
def test_draws_follow_the_quantiles(levels, key):
    drawn = np.sort(levels.draw(key, 20_000))
    u = np.asarray([0.1, 0.25, 0.5, 0.75, 0.9])
    # A share u of 20,000 draws lies below the quantile, give or take 5 standard errors.
    share = (
        np.searchsorted(drawn, levels.quantile(jnp.asarray(u)), side="right") / 20_000
    )
    slack = 1 / 200 if levels is LADDER else 0.0
    assert (np.abs(share - u) < 5 * np.sqrt(u * (1 - u) / 20_000) + slack).all()


@sweep
def test_stratified_draws_are_one_per_stratum(levels, key):
    stratified = levels.__class__(**{**vars(levels), "stratified": True})
    drawn = np.asarray(stratified.draw(key, 64))
    fences = levels.quantile(jnp.linspace(1e-9, 1 - 1e-9, 65))
    counts = np.searchsorted(np.sort(drawn), fences[1:-1])
    # A shifted even grid: no share of the draws is off by more than one.
    assert (np.abs(counts - np.arange(1, 64)) <= 1).all()
    assert (stratified.draw(jr.key(1), 64) != drawn).any()


@sweep
def test_a_draw_depends_on_its_index_not_on_the_batch(levels, key):
    np.testing.assert_array_equal(levels.draw(key, 3), levels.draw(key, 8)[:3])


@pytest.mark.parametrize("sde", ALL_SDES, ids=name_of)
def test_log_uniform_is_importance_sampling_for_the_likelihood(sde):
    """g^2 / std^2 dt, normalised (Song 2021b, eq. 12), as a density of log sigma."""
    levels = LikelihoodImportance(sde)
    t = jnp.linspace(sde.t_min, sde.t_max, 101)[1:-1]
    rate = sde.diffusion_squared(t) / sde.std(t) ** 2  # = d log sigma^2 / dt
    span = 2 * np.log(sde.sigma(sde.t_max) / sde.sigma(sde.t_min))
    d_log_sigma = jax.vmap(jax.grad(lambda t: jnp.log(sde.sigma(t))))(t)
    expected = rate / span / d_log_sigma
    np.testing.assert_allclose(levels.density(sde.sigma(t)), expected, rtol=1e-9)


def test_a_ladder_is_drawn_from_its_levels(key):
    ladder = Ladder((0.1, 0.5, 2.0))
    assert set(np.asarray(ladder.draw(key, 100))) == {0.1, 0.5, 2.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogNormal(std=0.0), "std is 0.0; it must be > 0"),
        (lambda: SplitLogNormal(std_high=0.0), "std_high is 0.0; it must be > 0"),
        (
            lambda: LogLogistic(sigma_min=2.0, sigma_max=1.0),
            "LogLogistic needs sigma_min < sigma_max",
        ),
        (
            lambda: CosineInterpolated(sigma_min=2.0, sigma_max=1.0),
            "CosineInterpolated needs sigma_min < sigma_max",
        ),
        (lambda: LogNormal(mean=float("nan")), "mean is nan; it must be a number"),
        (
            lambda: LogUniform(sigma_min=2.0, sigma_max=1.0),
            "LogUniform needs sigma_min < sigma_max",
        ),
        (lambda: Learned(ss.VP(), num_bins=0), "num_bins is 0; it must be >= 1"),
        (lambda: Ladder((0.5, 0.1)), "increasing positive"),
        (lambda: Ladder((0.5,)), "at least two"),
    ],
)
def test_bad_settings_name_the_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_only_a_learned_distribution_has_parameters_and_a_reference():
    sde = ss.VP()
    plain = [LogNormal(), UniformTime(sde), LikelihoodImportance(sde)]
    for levels in plain:
        assert levels.init() is None
        assert levels.with_params(None) is levels
        assert levels.reference is None
    assert [levels.estimates_bound for levels in plain] == [False, False, True]
    learned = Learned(sde, num_bins=4)
    assert learned.estimates_bound
    assert learned.reference == LikelihoodImportance(sde)
    logits = jnp.asarray([0.0, 1.0, 2.0, 3.0])
    sigma = jnp.asarray([0.02, 0.5])
    before = learned.with_params(learned.init())
    np.testing.assert_allclose(
        before.density(sigma), learned.reference.density(sigma), rtol=1e-6
    )
    after = learned.with_params(logits)
    low, high = (np.log(float(sde.sigma(t))) for t in (sde.t_min, sde.t_max))
    bins = (4 * (np.log(sigma) - low) / (high - low)).astype(int)
    share = np.exp(np.arange(4)) / np.exp(np.arange(4)).sum()
    ratio = after.density(sigma) / before.density(sigma)
    np.testing.assert_allclose(ratio, 4 * share[bins], rtol=1e-6)


def test_a_learned_schedule_has_exact_ends_and_rises_whatever_its_parameters(key):
    for scale in (0.0, 3.0, 100.0):
        logits = scale * jr.normal(key, (32,), jnp.float32)
        levels = Learned(ss.VP(), logits=logits)
        sigma = np.asarray(levels.quantile(jnp.linspace(0, 1, 1001)))
        ends = ss.VP().sigma(jnp.asarray([ss.VP().t_min, ss.VP().t_max]))
        np.testing.assert_allclose(sigma[[0, -1]], ends, rtol=1e-6)
        assert (np.diff(sigma) >= 0).all()


@pytest.mark.slow
def test_a_learned_schedule_finds_the_one_of_least_variance():
    """Of f(log sigma) the second moment of f / q is least for q as sqrt(E f^2)."""
    levels = Learned(ss.EDM(t_min=0.01, t_max=10.0), num_bins=8)
    size = np.geomspace(1.0, 16.0, 8)  # of f in each bin
    low, width = np.log(0.01), np.log(1000.0) / 8

    def estimates(logits, key):
        now = Learned(levels.sde, num_bins=8, logits=logits)
        sigma = now.draw(key, 2048)
        index = jnp.clip((jnp.log(sigma) - low) / width, 0, 7.99).astype(int)
        # f is random, too, as the error of a network is.
        f = jnp.asarray(size)[index] * jr.exponential(jr.fold_in(key, 1), (2048,))
        return now, sigma, f / now.density(sigma)

    @jax.jit
    def step(logits, key):
        def surrogate(logits):
            return levels_of(logits, key).mean()

        value, gradient = jax.value_and_grad(surrogate)(logits)
        return logits - 3e-5 * gradient, value

    def levels_of(logits, key):
        now, sigma, loss = estimates(logits, key)
        return now.surrogate(sigma, loss)

    logits = levels.init()
    for i in range(500):
        logits, value = step(logits, jr.key(i))
        assert value == 0  # the loss that is reported is left alone
    np.testing.assert_allclose(jax.nn.softmax(logits), size / size.sum(), rtol=0.15)
    before, after = (
        np.asarray(estimates(l, jr.key(0))[2]) for l in (levels.init(), logits)
    )
    # The mean is the integral under either, within five standard errors.
    integral = size.mean() * np.log(1000.0)
    for values in (before, after):
        assert values.mean() == pytest.approx(
            integral, abs=5 * values.std() / np.sqrt(2048)
        )
    assert after.std() < 0.8 * before.std()


@pytest.mark.slow
def test_shapes_of_noise_levels_are_those_of_other_libraries():
    """SciPy's logistic and normals, and the cosine of Hoogeboom et al. 2023, in t."""
    u = np.linspace(0.01, 0.99, 25)
    ends = scipy.stats.logistic.cdf(np.log([0.05, 3.0]), -1.0, 0.8)
    exact = scipy.stats.logistic.ppf(ends[0] + u * np.ptp(ends), -1.0, 0.8)
    cut = LogLogistic(mean=-1.0, scale=0.8, sigma_min=0.05, sigma_max=3.0)
    np.testing.assert_allclose(np.log(cut.quantile(jnp.asarray(u))), exact, rtol=1e-9)
    split = SplitLogNormal(mode=-1.0, std_low=0.5, std_high=1.5)
    np.testing.assert_allclose(split.quantile(jnp.asarray(0.25)), np.exp(-1.0))
    whole = SplitLogNormal(mode=0.3, std_low=0.7, std_high=0.7)
    same = LogNormal(mean=0.3, std=0.7)
    both = (levels.quantile(jnp.asarray(u)) for levels in (whole, same))
    np.testing.assert_allclose(*both, rtol=1e-9)
    draws = np.log(split.draw(jr.key(0), 200_000))
    # The moments of a split normal: the mean is mode + sqrt(2 / pi) (high - low).
    assert abs(draws.mean() - (-1.0 + np.sqrt(2 / np.pi))) < 5 * draws.std() / 447

    def log_snr(t, noise_size):
        shift = 2 * np.log(noise_size / 256)
        lowest, highest = (-2 * np.log(s / 0.5) - shift for s in (1000.0, 0.001))
        start, end = (np.arctan(np.exp(-0.5 * s)) for s in (highest, lowest))
        return -2 * np.log(np.tan(start + t * (end - start))) + shift

    t = 1 - u  # from data to noise in u, from noise to data in t
    mixed = t * log_snr(1 - t, 64.0) + (1 - t) * log_snr(1 - t, 32.0)
    found = CosineInterpolated(image_size=256).quantile(jnp.asarray(u))
    np.testing.assert_allclose(found, 0.5 * np.exp(-0.5 * mixed), rtol=1e-9)


@pytest.mark.slow
def test_a_schedule_fitted_to_losses_is_the_resampler_by_second_moments(key):
    sde, sigma = ss.EDM(), LogUniform(0.002, 80.0).draw(key, 4_000)
    levels = Learned(sde, num_bins=8)
    loss = 1 / (1 + sigma) * (1 + 0.3 * jr.normal(jr.key(1), sigma.shape))
    fitted = levels.fitted(sigma, loss)
    edges = np.geomspace(0.002, 80.0, 9)
    place = np.clip(np.digitize(sigma, edges) - 1, 0, 7)
    root = [np.sqrt((np.asarray(loss)[place == k] ** 2).mean()) for k in range(8)]
    expected = 0.999 * np.asarray(root) / np.sum(root) + 0.001 / 8
    np.testing.assert_allclose(np.exp(fitted.logits), expected, rtol=1e-5)

    # Its gradient vanishes there: no other schedule has losses of less variance.
    def second_moment(logits):
        probability = jax.nn.softmax(logits)
        return (jnp.asarray(root) ** 2 / probability).sum()

    there = jax.grad(second_moment)(jnp.log(jnp.asarray(root)))
    np.testing.assert_allclose(there, 0.0, atol=1e-9)
    # As the reference resampler: even as long as any bin is short of losses.
    cold = levels.fitted(sigma[:20], loss[:20])
    np.testing.assert_allclose(np.exp(cold.logits), 1 / 8, rtol=1e-6)
