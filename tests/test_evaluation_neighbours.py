"""Precision, recall, density, coverage, copies: expectations, ties and extremes."""

from statistics import NormalDist

import numpy as np
import pytest

from score_sde import evaluation
from score_sde.evaluation.neighbours import nearest

REPEATS = 200


def gaussian(rng, number, dims, mean=0.0, scale=1.0):
    return mean + scale * rng.standard_normal((number, dims))


@pytest.fixture
def sets():
    rng = np.random.default_rng(0)
    return gaussian(rng, 60, 4), gaussian(rng, 50, 4, 0.3)


def test_neighbours_are_exact_where_points_repeat_or_nearly_do():
    rng = np.random.default_rng(3)
    x = 1e3 + rng.integers(0, 3, (80, 3)).astype(np.float32)
    x[::4] += np.float32(1e-4)
    squares, indices = nearest(x, x, 5, same=True)
    direct = ((x[:, None].astype(float) - x[None]) ** 2).sum(-1)
    np.fill_diagonal(direct, np.inf)
    np.testing.assert_array_equal(squares, np.sort(direct, 1)[:, :5])
    np.testing.assert_array_equal(squares, np.take_along_axis(direct, indices, 1))


def difficult(name, rng):
    """Two sets [n, dims] of which products in single precision know little."""
    x, y = gaussian(rng, 90, 5), gaussian(rng, 70, 5, 0.2)
    far = 1e6 * (np.arange(5) == 0)
    x_far, y_far = (a + np.arange(len(a))[:, None] % 2 * far for a in (x, y))
    grid = rng.integers(0, 3, (160, 5)).astype(float)
    return {
        "two clusters": (x_far, y_far),
        "one far point": (np.concatenate([x, 1e9 * far[None]]), y),
        "huge": (1e40 * x, 1e40 * y),
        "tiny": (1e-40 * x, 1e-40 * y),
        "repeated": (np.repeat(x[:30], 3, 0), np.concatenate([x[:20], y])),
        "a grid": (grid[:90], grid[90:]),
        "single": (x.astype(np.float32), y.astype(np.float32)),
    }[name]


DIFFICULT = [
    "two clusters",
    "one far point",
    "huge",
    "tiny",
    "repeated",
    "a grid",
    "single",
]


@pytest.mark.parametrize("balls", ["closed", "open"])
@pytest.mark.parametrize("name", DIFFICULT)
def test_balls_are_those_of_differences_in_double_precision(name, balls, monkeypatch):
    x, y = difficult(name, np.random.default_rng(6))
    monkeypatch.setattr("score_sde.evaluation.estimate.BLOCK_NUMBERS", 2_000)

    def squares(a, b):
        return ((a[:, None].astype(float) - b[None]) ** 2).sum(-1)

    def radii(a, k):
        d = squares(a, a)
        np.fill_diagonal(d, np.inf)
        return np.sort(d, 1)[:, k - 1]

    def within(d, r):
        return d <= r if balls == "closed" else d < r

    across = squares(y, x)
    among, covered = evaluation.precision_recall(x, y, k=3, balls=balls).value
    assert among == within(across, radii(x, 3)).any(1).mean()
    assert covered == within(across, radii(y, 3)[:, None]).any(0).mean()
    density, coverage = evaluation.density_coverage(x, y, k=3, balls=balls).value
    inside = within(across, radii(x, 3))
    assert density == pytest.approx(inside.sum() / (3 * len(y)), rel=1e-12)
    assert coverage == inside.any(0).mean()


def test_neighbours_do_not_depend_on_the_blocks(sets, monkeypatch):
    metrics = evaluation.precision_recall, evaluation.density_coverage
    before = repr([metric(*sets) for metric in metrics])
    monkeypatch.setattr("score_sde.evaluation.estimate.BLOCK_NUMBERS", 41)
    after = repr([metric(*sets) for metric in metrics])
    assert before == after


def test_a_set_with_itself_has_precision_recall_and_coverage_one(sets):
    x = sets[0]
    assert evaluation.precision_recall(x, x.copy()).value == (1, 1)
    both = evaluation.density_coverage(x, x.copy())
    assert both.value == (1, 1)
    assert both.high[1] == 1


@pytest.mark.parametrize("k", [3, 5])
def test_density_and_coverage_of_equal_laws_are_as_expected(k):
    rng = np.random.default_rng(4)
    results = [
        evaluation.density_coverage(gaussian(rng, 120, 3), gaussian(rng, 150, 3), k=k)
        for _ in range(REPEATS)
    ]
    truth = evaluation.expected_coverage(120, 150, k)
    for field, expected in (("density", 1.0), ("coverage", truth)):
        estimates = [getattr(r, field) for r in results]
        values = np.array([e.value for e in estimates])
        assert abs(values.mean() - expected) < 3 * values.std() / REPEATS**0.5
        held = np.mean([e.low <= expected <= e.high for e in estimates])
        assert 0.9 <= held <= 1


def test_expected_coverage_tends_to_its_limit():
    assert evaluation.expected_coverage(10**6, 10**6, 3) == pytest.approx(
        0.875, abs=1e-5
    )
    assert evaluation.expected_coverage(10**6, 10**6, 5) == pytest.approx(
        0.969, abs=1e-3
    )


def test_precision_and_recall_of_equal_laws_on_a_line_are_three_quarters():
    # k = 1: a point between two of the others is in no ball with probability 1/4, since
    # it must be farther from either than that one's other neighbour.
    rng = np.random.default_rng(5)
    values = np.array(
        [
            evaluation.precision_recall(
                gaussian(rng, 300, 1), gaussian(rng, 300, 1), k=1
            ).value
            for _ in range(60)
        ]
    )
    error = values.std(0) / 60**0.5
    assert (np.abs(values.mean(0) - 0.75) < 3 * error + 1 / 300).all()


def normal_mass(intervals, mean, scale):
    """Mass of a union of intervals [n, 2] under a normal law on the line."""
    law, total, end = NormalDist(mean, scale), 0.0, -np.inf
    for low, high in sorted(map(tuple, intervals)):
        if high > end:
            total += law.cdf(high) - law.cdf(max(low, end))
            end = high
    return total


def rate_is_kept(held):
    """Whether a share of REPEATS intervals is within three standard errors of 95 %."""
    return abs(np.mean(held) - 0.95) <= 3 * (0.95 * 0.05 / REPEATS) ** 0.5


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (0.8, 0.7)])
def test_intervals_of_precision_and_recall_hold_the_mass_in_the_balls(mean, scale):
    """On a line, where the mass of a union of balls is known."""
    rng, held = np.random.default_rng(9), ([], [])
    for _ in range(REPEATS):
        real, fake = gaussian(rng, 20, 1), gaussian(rng, 25, 1, mean, scale)
        asked = gaussian(rng, 150, 1), gaussian(rng, 150, 1, mean, scale)
        precision = evaluation.precision_recall(real, asked[1], k=2).precision
        recall = evaluation.precision_recall(asked[0], fake, k=2).recall
        sides = ((precision, real, mean, scale), (recall, fake, 0.0, 1.0))
        for found, (estimate, centres, *law) in zip(held, sides, strict=True):
            radii = np.sort(np.abs(centres - centres[:, 0]), 0)[2][:, None]
            balls = np.concatenate([centres - radii, centres + radii], 1)
            mass = normal_mass(balls, *law)
            found.append(estimate.low <= mass <= estimate.high)
    assert all(map(rate_is_kept, held))


def test_intervals_of_authenticity_hold_the_mass_that_is_authentic():
    """On a line, where the mass of what is nearer than a neighbour is known."""
    rng, held = np.random.default_rng(10), []
    for _ in range(REPEATS):
        real = np.sort(gaussian(rng, 30, 1), 0)
        gaps = np.diff(real[:, 0], prepend=-np.inf, append=np.inf)
        own = np.minimum(gaps[1:], gaps[:-1])  # to the nearest other real point
        reach = np.stack(
            [np.minimum(own, gaps[:-1] / 2), np.minimum(own, gaps[1:] / 2)]
        )
        copies = np.stack([real[:, 0] - reach[0], real[:, 0] + reach[1]], 1)
        authentic = 1 - normal_mass(copies, 0.2, 1.1)
        found = evaluation.authenticity(real, gaussian(rng, 150, 1, 0.2, 1.1))
        held.append(found.low <= authentic <= found.high)
    assert rate_is_kept(held)


def test_precision_and_recall_tell_apart_fewer_modes_and_worse_samples():
    rng = np.random.default_rng(6)
    real = np.concatenate([gaussian(rng, 200, 2), gaussian(rng, 200, 2, 20.0)])
    one_mode = evaluation.precision_recall(real, gaussian(rng, 300, 2))
    assert one_mode.precision.value > 0.95
    assert one_mode.recall.value < 0.55
    noisy = evaluation.precision_recall(real, 10 + 20 * rng.standard_normal((300, 2)))
    assert noisy.precision.value < 0.3


def test_copies_of_training_images_are_found():
    rng = np.random.default_rng(7)
    train, held_out = gaussian(rng, 300, 8), gaussian(rng, 300, 8)
    fresh = gaussian(rng, 400, 8)
    copies = train[:200] + 0.01 * gaussian(rng, 200, 8)
    good = evaluation.memorisation(train, fresh, held_out=held_out)
    assert good.low <= good.parts["expected"] == 0.5 <= good.high
    bad = evaluation.memorisation(train, copies, held_out=held_out)
    assert bad.value == 1
    assert evaluation.authenticity(train, copies).value == 0
    # A fresh point is as far from a real one as that is from others, about: one in two.
    assert 0.3 < evaluation.authenticity(train, fresh).value < 0.9
    distances, indices = evaluation.nearest_neighbours(copies, train)
    np.testing.assert_array_equal(indices[:, 0], np.arange(200))
    assert distances.max() < 0.1


@pytest.mark.parametrize("dims", [4, 30])
def test_vendi_score_counts_different_samples(dims):
    unit = np.eye(dims)[np.arange(60) % 4]
    assert evaluation.vendi_score(unit).value == pytest.approx(4, rel=1e-12)
    assert evaluation.vendi_score(unit[:1].repeat(9, 0)).value == pytest.approx(1)
    with pytest.raises(ValueError, match=r"features\[3\] is 0"):
        evaluation.vendi_score(np.where(np.arange(60)[:, None] == 3, 0, unit))


def test_vendi_error_is_the_spread_over_repetitions():
    rng = np.random.default_rng(8)
    estimates = [
        evaluation.vendi_score(gaussian(rng, 200, 5, 0.5)) for _ in range(REPEATS)
    ]
    spread = np.std([e.value for e in estimates])
    errors = np.mean([e.parts["standard_error"] for e in estimates])
    assert errors == pytest.approx(spread, rel=0.15)  # known to 5 %
