"""Power-function averages against their integrals and against directly tracked ones."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from score_sde.training.post_hoc_ema import (
    Profile,
    combination,
    exponent,
    inner_product,
    power_rate,
    reconstruct,
    save_snapshot,
)
from score_sde.types import UserError


def profile(tau, std, step):
    gamma = exponent(std)
    return np.where(tau <= step, (gamma + 1) * tau**gamma / step ** (gamma + 1), 0.0)


@pytest.mark.parametrize("std", [0.02, 0.05, 0.1, 0.2])
def test_the_width_is_that_of_the_profile(std):
    def moment(k):
        return scipy.integrate.quad(lambda u: u**k * profile(u, std, 1.0), 0, 1)[0]

    assert moment(0) == pytest.approx(1)
    assert np.sqrt(moment(2) - moment(1) ** 2) == pytest.approx(std)


def test_exponents_of_the_paper():
    # Sec. 3.1: widths 0.05 and 0.10 have gamma 16.97 and 6.94.
    assert exponent(0.05) == pytest.approx(16.97, abs=0.005)
    assert exponent(0.10) == pytest.approx(6.94, abs=0.005)
    for bad in (0.0, -0.1, 0.289, float("nan")):
        with pytest.raises(ValueError, match=r"it must be in \(0, 0.28\)"):
            exponent(bad)


def test_inner_products_are_integrals():
    for a, b in (
        (Profile(0.05, 40), Profile(0.1, 100)),
        (Profile(0.1, 40), Profile(0.05, 100)),
        (Profile(0.2, 70), Profile(0.2, 70)),
    ):
        expected, _ = scipy.integrate.quad(
            lambda tau, a=a, b=b: profile(tau, *a) * profile(tau, *b),
            0,
            min(a.step, b.step),
        )
        assert inner_product(a, b) == pytest.approx(expected)
        assert inner_product(b, a) == pytest.approx(expected)


def tracked(values, std):
    """The average after each step, [steps, ...]."""
    average, out = np.zeros_like(values[0]), []
    for step, value in enumerate(values):
        rate = float(power_rate(jnp.asarray(step), std))
        average = (1 - rate) * average + rate * value
        out.append(average)
    return np.stack(out)


def walk(num_steps):
    """Parameters that drift like those of a training, [steps, 20]."""
    random = np.random.RandomState(0)
    sizes = 1 / np.sqrt(1 + np.arange(num_steps))
    return np.cumsum(random.normal(size=(num_steps, 20)) * sizes[:, None], axis=0)


def test_each_step_weighs_as_much_as_the_profile_over_it():
    num_steps, std = 50, 0.1
    weights = tracked(np.eye(num_steps), std)[-1]
    edges = (np.arange(num_steps + 1) / num_steps) ** (exponent(std) + 1)
    # Of float32 powers.
    np.testing.assert_allclose(weights, np.diff(edges), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("std", [0.06, 0.075, 0.12, 0.15])
def test_a_reconstructed_average_is_the_one_tracked_directly(std, tmp_path):
    num_steps = 1_600
    values = walk(num_steps)
    stored = {s: tracked(values, s) for s in (0.05, 0.1)}
    for step in range(100, num_steps + 1, 100):
        for s, averages in stored.items():
            params = {"a": {"b": jnp.asarray(averages[step - 1])}}
            save_snapshot(tmp_path, Profile(s, step), params)
    like = {"a": {"b": jnp.zeros(20)}}
    step, params = reconstruct(tmp_path, std, like)
    expected = tracked(values, std)[-1]
    error = np.abs(params["a"]["b"] - expected).max()
    nearest = min(np.abs(stored[s][-1] - expected).max() for s in stored)
    assert step == num_steps
    # The paper's fig. 4: nothing to be seen between them from 16 snapshots.
    assert error < 0.02 * nearest
    assert nearest > 0.01


def test_a_stored_average_is_itself():
    stored = [Profile(s, t) for t in (100, 200, 300) for s in (0.05, 0.1)]
    weights = combination(stored, Profile(0.1, 300))
    np.testing.assert_allclose(weights, np.eye(6)[5], atol=1e-6)


def test_what_is_never_trained_is_no_average(tmp_path):
    """The weights of a few averages sum to 1 but nearly: frequencies would be off."""
    stored = [Profile(s, t) for t in (100, 250) for s in (0.05, 0.1)]
    freqs = 100.0 * jnp.arange(1.0, 5.0)
    for kept in stored:
        save_snapshot(tmp_path, kept, {"freqs": freqs, "kernel": freqs})
    _, params = reconstruct(tmp_path, 0.15, {"freqs": freqs, "kernel": freqs})
    np.testing.assert_array_equal(params["freqs"], freqs)
    off = float(abs(params["kernel"] / freqs - 1).max())
    weights = combination(stored, Profile(0.15, 250))
    assert off == pytest.approx(abs(weights.sum() - 1), rel=1e-3)
    assert off > 1e-4


def test_nothing_stored_is_said(tmp_path):
    with pytest.raises(UserError, match="no averages in"):
        reconstruct(tmp_path, 0.05, {})
    save_snapshot(tmp_path, Profile(0.05, 3), {"a": jnp.zeros(2)})
    with pytest.raises(UserError, match=r"it must be in \(0, 0.28\)"):
        reconstruct(tmp_path, 0.5, {"a": jnp.zeros(2)})
