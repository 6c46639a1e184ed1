"""Precision, recall, density, coverage, copies: expectations, ties and extremes."""

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
