"""Frechet distances: closed forms, invariances, and intervals that hold the truth."""

from statistics import NormalDist

import numpy as np
import pytest
from cases import unless

from score_sde import evaluation
from score_sde.evaluation.frechet import frechet_distance

REPEATS = 200


def gaussian(rng, number, dims, mean=0.0, scale=1.0):
    return mean + scale * rng.standard_normal((number, dims))


def coverage_limits(level):
    """Three standard errors of a share about the stated one."""
    error = (level * (1 - level) / REPEATS) ** 0.5
    return level - 3 * error, level + 3 * error


@pytest.mark.parametrize(
    ("dims", "number", "mean", "scale"),
    [(4, 500, 0.5, 1.0), (16, 800, 0.2, 1.2), (8, 400, 0.3, 0.5)],
)
@pytest.mark.parametrize("level", unless((0.95).__eq__, [0.95, 0.68]))
def test_interval_holds_the_distance_of_the_laws_at_its_rate(
    dims, number, mean, scale, level
):
    rng = np.random.default_rng(0)
    truth = dims * (mean**2 + (scale - 1) ** 2)
    held = centred = 0
    for _ in range(REPEATS):
        sets = gaussian(rng, number, dims), gaussian(rng, 500, dims, mean, scale)
        estimate = frechet_distance(*sets, level=level)
        held += estimate.low <= truth <= estimate.high
        off = estimate.value - estimate.parts["bias"] - truth
        half = NormalDist().inv_cdf((1 + level) / 2) * estimate.parts["standard_error"]
        centred += abs(off) <= half
    low, high = coverage_limits(level)
    assert low <= centred / REPEATS <= high
    # The interval also allows for higher bias, and holds the value.
    assert held >= centred


@pytest.mark.slow
@pytest.mark.parametrize(("dims", "number"), [(4, 300), (32, 1000)])
def test_bias_and_error_are_right_for_equal_laws(dims, number):
    rng = np.random.default_rng(1)
    estimates = [
        frechet_distance(gaussian(rng, number, dims), gaussian(rng, number, dims))
        for _ in range(REPEATS)
    ]
    values = np.array([e.value for e in estimates])
    # Means, and covariances of Gaussians, to second order: 2 d / n + d (d + 1) / (2 n).
    truth = 2 * dims / number + dims * (dims + 1) / (2 * number)
    biases = np.array([e.parts["bias"] for e in estimates])
    assert biases.mean() == pytest.approx(truth, rel=0.05)
    assert values.mean() == pytest.approx(truth, rel=0.05)
    errors = np.array([e.parts["standard_error"] for e in estimates])
    # The variance of |dm|^2 + |dS|^2 / 4; the larger of two estimates is taken.
    deviation = (dims**2 + 9 * dims) ** 0.5 / number
    assert errors.mean() == pytest.approx(deviation, rel=0.2)
    assert np.mean([e.low == 0 for e in estimates]) > 0.9


def test_error_is_that_of_a_bootstrap_of_the_whole_distance():
    rng = np.random.default_rng(2)
    sets = gaussian(rng, 600, 6), gaussian(rng, 500, 6, 0.4, 1.3)
    estimate = frechet_distance(*sets)
    draws = [
        frechet_distance(*(s[rng.integers(0, len(s), len(s))] for s in sets)).value
        for _ in range(400)
    ]
    assert estimate.parts["standard_error"] == pytest.approx(np.std(draws), rel=0.12)
    # A resample is to the set what the set is to the law.
    rise = np.mean(draws) - estimate.value
    assert estimate.parts["bias"] == pytest.approx(rise, rel=0.25)


def test_distance_of_a_shift_is_its_square_and_rotations_change_nothing():
    rng = np.random.default_rng(3)
    x = gaussian(rng, 100, 12)
    shift = rng.standard_normal(12)
    # The variances cancel to rounding.
    assert frechet_distance(x, x + shift).value == pytest.approx(
        shift @ shift, rel=1e-12
    )
    y = gaussian(rng, 80, 12, 0.3, 2.0)
    turn = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    before, after = frechet_distance(x, y), frechet_distance(x @ turn + 5, y @ turn + 5)
    assert after.value == pytest.approx(before.value, rel=1e-10)
    assert after.low == pytest.approx(before.low, rel=1e-8)


def test_the_same_set_has_distance_exactly_zero_in_any_order():
    x = gaussian(np.random.default_rng(4), 200, 30)
    same = frechet_distance(x, x.copy())
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert frechet_distance(x, x[::-1]).value == 0
    moments = evaluation.moments_of(x)
    assert evaluation.frechet_distance_of_moments(moments, moments).value == 0


def test_large_sets_give_the_number_of_small_ones(monkeypatch):
    rng = np.random.default_rng(5)
    sets = gaussian(rng, 900, 20), gaussian(rng, 800, 20, 0.1, 1.1)
    exact = frechet_distance(*sets)
    monkeypatch.setattr("score_sde.evaluation.frechet.QR_WORK", 0)
    monkeypatch.setattr("score_sde.evaluation.frechet.SVD_SIZE", 0)
    monkeypatch.setattr("score_sde.evaluation.frechet_spread.FLOAT64_WORK", 0)
    monkeypatch.setattr("score_sde.evaluation.estimate.BLOCK_NUMBERS", 2000)
    fast = frechet_distance(*sets)
    assert fast.value == pytest.approx(exact.value, rel=1e-11)
    for name in ("bias", "standard_error"):  # in float32
        assert fast.parts[name] == pytest.approx(exact.parts[name], rel=1e-5)


@pytest.mark.parametrize(
    ("first", "second", "dims"),
    [(900, 60, 300), (60, 900, 300), (200, 150, 300), (90, 100, 200), (230, 20, 205)],
)
def test_fewer_examples_than_features_cost_no_digits(first, second, dims, monkeypatch):
    """By eigenvalues as by singular values, and the same both ways round."""
    rng, scales = np.random.default_rng(12), np.linspace(0.1, 2, dims)
    sets = [
        gaussian(rng, number, dims, mean, scales)
        for number, mean in ((first, 0.0), (second, 0.1))
    ]
    exact = frechet_distance(*sets)
    monkeypatch.setattr("score_sde.evaluation.frechet.SVD_SIZE", 0)
    there, back = frechet_distance(*sets), frechet_distance(*sets[::-1])
    for fast in (there, back):
        assert fast.value == pytest.approx(exact.value, rel=1e-13)
        for name in ("bias", "standard_error"):
            assert fast.parts[name] == pytest.approx(exact.parts[name], rel=1e-11)
    # Of moments, whose covariances are singular, some digits are lost for good.
    moments = [evaluation.moments_of(s) for s in sets]
    for pair in (moments, moments[::-1]):
        by_moments = evaluation.frechet_distance_of_moments(*pair).value
        assert by_moments == pytest.approx(exact.value, rel=1e-9)


def test_constant_features_leave_the_distance_as_it_is(monkeypatch):
    rng = np.random.default_rng(6)
    x, y = gaussian(rng, 300, 5), gaussian(rng, 200, 5, 0.5)
    dead = [np.concatenate([s, np.full((len(s), 3), 7.0)], 1) for s in (x, y)]
    before = frechet_distance(x, y)
    for work in (1e9, 0):
        monkeypatch.setattr("score_sde.evaluation.frechet.QR_WORK", work)
        after = frechet_distance(*dead)
        assert after.value == pytest.approx(before.value, rel=1e-9)
        assert after.low == pytest.approx(before.low, rel=1e-6)


def test_sets_without_any_spread_have_the_distance_of_their_means():
    still, moved = np.ones((5, 3)), np.zeros((9, 3))
    assert frechet_distance(still, moved).value == 3
    x = gaussian(np.random.default_rng(11), 50, 3)
    gap = ((x.mean(0) - 1) ** 2).sum() + x.var(0, ddof=1).sum()
    assert frechet_distance(still, x).value == pytest.approx(gap, rel=1e-12)


def test_few_examples_are_warned_of_and_span_zero():
    rng = np.random.default_rng(7)
    estimate = frechet_distance(gaussian(rng, 20, 40), gaussian(rng, 30, 40))
    assert "n = 20" in estimate.warnings[0]
    assert "WARNING" in str(estimate)
    assert estimate.low == 0
    assert not frechet_distance(gaussian(rng, 41, 40), gaussian(rng, 41, 40)).warnings


@pytest.mark.parametrize("sizes", [[1] * 300, [7, 200, 93], [300]])
def test_moments_do_not_depend_on_the_batches(sizes):
    rng = np.random.default_rng(8)
    x = (1e4 + gaussian(rng, 300, 6)).astype(np.float32)
    parts = np.split(x, np.cumsum(sizes)[:-1])
    merged = evaluation.merge_moments(evaluation.moments_of(p) for p in parts)
    assert merged.number == 300
    exact = x.astype(np.float64)
    np.testing.assert_allclose(merged.mean, exact.mean(0), rtol=1e-13)
    # float64 holds 1e4 to 2e-12, the features' deviation is 1.
    np.testing.assert_allclose(merged.covariance, np.cov(exact.T), rtol=1e-9, atol=1e-9)


def test_fd_infinity_holds_the_distance_of_the_laws():
    rng = np.random.default_rng(9)
    truth, held, values = 8 * 0.25, 0, []
    for _ in range(60):
        sets = gaussian(rng, 1500, 8), gaussian(rng, 600, 8, 0.5)
        estimate = evaluation.fd_infinity(*sets, num_sizes=8)
        held += estimate.low <= truth <= estimate.high
        values.append(estimate.value - estimate.parts["bias"])
    assert held >= 54  # 57 are expected, 54 three standard errors (1.7) below or so
    assert np.mean(values) == pytest.approx(truth, abs=4 * np.std(values) / 60**0.5)


def test_floor_of_two_halves_is_the_bias_of_equal_laws():
    x = gaussian(np.random.default_rng(10), 2000, 10)
    floor = evaluation.split_half_floor(frechet_distance, x)
    assert floor.counts == {"num_real": 1000, "num_fake": 1000, "dims": 10}
    assert floor.value == pytest.approx(20 / 1000 + 110 / 2000, rel=0.5)
    again = evaluation.split_half_floor(frechet_distance, x)
    other = evaluation.split_half_floor(frechet_distance, x, seed=1)
    assert floor.value == again.value != other.value
