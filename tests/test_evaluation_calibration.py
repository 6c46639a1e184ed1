"""The calibration error, against scikit-learn's curve and laws that are known."""

import jax.random as jr
import numpy as np
import pytest
from cases import MIXTURE, unless
from scipy import stats
from sklearn.calibration import calibration_curve

import score_sde as ss
from score_sde import evaluation

LABELLED = ss.oracles.LabelledMixture(
    MIXTURE.means,
    MIXTURE.covariances,
    MIXTURE.weights,
    [[0.8, 0.1, 0.3], [0.2, 0.9, 0.7]],
)


def classified(number, seed=0, sharper=1.0):
    """Logits of the exact classifier at some noise, times `sharper`, and classes."""
    rng = np.random.default_rng(seed)
    x = np.asarray(LABELLED.sample(jr.key(seed), number))
    x = x + 1.5 * rng.standard_normal(x.shape)
    logits = np.stack(
        [LABELLED.log_class(x, 1.5, {"label": np.full(number, c)}) for c in range(2)],
        axis=1,
    )
    labels = (rng.random(number) > np.exp(logits[:, 0])).astype(int)
    return sharper * logits, labels


@pytest.mark.parametrize("num_bins", [1, 7, 15])
def test_it_is_the_gap_of_scikit_learns_curve(num_bins):
    logits, labels = classified(800, sharper=1.7)
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
    confidence = probabilities.max(1)
    right = (probabilities.argmax(1) == labels).astype(int)
    share, mean = calibration_curve(right, confidence, n_bins=num_bins)
    counts = np.histogram(confidence, np.linspace(0, 1, num_bins + 1))[0]
    expected = (counts[counts > 0] / 800 * np.abs(share - mean)).sum()
    found = evaluation.calibration_error(logits, labels, num_bins=num_bins)
    np.testing.assert_allclose(found.value, expected, rtol=1e-9)
    assert found.parts["accuracy"] == right.mean()


def test_the_exact_classifier_has_the_floor_and_a_sharper_one_more():
    repeats = [
        evaluation.calibration_error(*classified(400, seed)) for seed in range(40)
    ]
    values = np.array([r.value for r in repeats])
    floors = np.array([r.parts["floor"] for r in repeats])
    # The gaps are binomial, and few examples may lie in a bin: the floor to 10 %.
    np.testing.assert_allclose(values.mean(), floors.mean(), rtol=0.1)
    assert all(r.low == 0 for r in repeats[:20])
    sharp = evaluation.calibration_error(*classified(4_000, sharper=3.0))
    assert sharp.low > 0
    assert sharp.value > 3 * sharp.parts["floor"]
    assert sharp.parts["confidence"] > sharp.parts["accuracy"]


@pytest.mark.parametrize("sharper", unless((1.3).__eq__, [1.0, 1.3, 3.0]))
def test_its_interval_holds_the_truth_at_least_at_its_rate(sharper):
    truth = 0.0
    if sharper > 1:
        truth = evaluation.calibration_error(*classified(200_000, 1, sharper)).value
    held = [
        r.low <= truth <= r.high
        for seed in range(2, 102)
        for r in [evaluation.calibration_error(*classified(300, seed, sharper))]
    ]
    # 95 % of 100, less three standard errors.
    assert np.mean(held) >= 0.88


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0.0, 1.0], "labels hold float64"),
        ([0, 1, 1], r"shape \(3,\)"),
        ([0, 2], "labels hold 2; logits have the classes 0 to 1"),
        ([-1, 0], "labels hold -1"),
    ],
)
def test_labels_that_are_none_are_refused(labels, words):
    with pytest.raises(ValueError, match=words):
        evaluation.calibration_error(np.zeros((2, 2)), labels)


def test_one_class_is_always_right():
    found = evaluation.calibration_error(np.zeros((3, 1)), [0, 0, 0])
    assert (found.value, found.low, found.high) == (0, 0, 0)


def gaussian_posterior(number, num_draws, *, spread=1.0, seed=0):
    """Truths of N(0, 1) on the plane, and draws given x0 + 0.5 n: N(0.8 y, 0.2)."""
    rng = np.random.default_rng(seed)
    x0 = rng.standard_normal((number, 2))
    y = x0 + 0.5 * rng.standard_normal(x0.shape)
    z = rng.standard_normal((number, num_draws, 2))
    return x0, 0.8 * y[:, None] + spread * np.sqrt(0.2) * z


def test_ranks_are_uniform_for_draws_of_the_posterior_alone():
    right = evaluation.posterior_ranks(*gaussian_posterior(400, 31))
    narrow = evaluation.posterior_ranks(*gaussian_posterior(400, 31, spread=0.5))
    assert right.p_value > 0.01
    assert narrow.p_value < 0.01
    assert (narrow.counts[:, [0, -1]] > 400 / 8).all()  # the truth is at the ends
    x0, draws = gaussian_posterior(400, 31)
    assert evaluation.posterior_ranks(x0, draws + 0.3).p_value < 0.01
    np.testing.assert_array_equal(right.ranks, (draws < x0[:, None]).sum(1))
    assert right.counts.sum() == 800
    pictures = evaluation.posterior_ranks(
        x0.reshape(400, 1, 2), draws.reshape(400, 31, 1, 2)
    )
    assert pictures.p_value == right.p_value


def test_the_p_value_of_ranks_is_itself_uniform():
    """By Kolmogorov and Smirnov, of 200 repetitions of 2 coordinates each."""
    p = [
        evaluation.posterior_ranks(*gaussian_posterior(200, 15, seed=seed)).p_values
        for seed in range(200)
    ]
    assert stats.kstest(np.concatenate(p), "uniform").pvalue > 0.01


def test_draws_that_equal_the_truth_have_every_rank():
    x0 = np.zeros((800, 1))
    found = evaluation.posterior_ranks(x0, np.zeros((800, 7, 1)))
    assert found.p_value > 0.01


@pytest.mark.parametrize(
    ("truths", "draws", "options", "message"),
    [
        (np.ones((4, 2)), np.ones((4, 7, 3)), {}, r"draws have shape \(4, 7, 3\)"),
        (np.ones((4, 2)), np.ones((4, 2)), {}, "must be .examples, draws, .dims"),
        (np.ones((0, 2)), np.ones((0, 7, 2)), {}, r"draws have shape \(0, 7, 2\)"),
        (np.ones((4, 2)), np.ones((4, 8, 2)), {}, "num_bins is 8; .* the 9 ranks"),
        (np.ones((4, 2)), np.ones((4, 7, 2)), {"num_bins": 1}, "num_bins is 1"),
        (np.ones((4, 2)), np.full((4, 7, 2), np.nan), {}, "must be finite"),
    ],
)
def test_ranks_of_what_does_not_fit_are_refused(truths, draws, options, message):
    with pytest.raises(ValueError, match=message):
        evaluation.posterior_ranks(truths, draws, **options)
