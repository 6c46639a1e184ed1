"""The calibration error, against scikit-learn's curve and laws that are known."""

import jax.random as jr
import numpy as np
import pytest
from cases import MIXTURE, unless
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
