"""Discrete chains: their betas, the timesteps that are visited, the way up a grid."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import GAUSSIAN, close, golden, unless

import score_sde as ss
from score_sde import editing, schedules
from score_sde.samplers import SAMPLERS, grids

CASES, ARRAYS = golden("chains")


def of(function):
    return [c for c in CASES if c["function"] == function]


@pytest.mark.parametrize("case", of("diff.beta_schedule"), ids=lambda c: c["id"])
def test_betas_are_those_of_a_peer(case):
    given = case["in"]
    make = schedules.BETA_SCHEDULES[given["kind"]]
    ends = (given["beta_start"], given["beta_end"])
    betas = make(given["num_train_timesteps"], *ends)
    if given["zero_terminal_snr"]:
        betas = schedules.without_terminal_signal(betas)
    expected = ARRAYS[case["out"]["betas"][1:]]
    assert close(betas, expected, case["tol"]["betas"]["f64"])


def test_a_chain_without_terminal_signal_keeps_its_beginning_and_ends_in_noise():
    plain, rescaled = (
        schedules.chain_levels("linear", 1000, zero_terminal_snr=flag)
        for flag in (False, True)
    )
    np.testing.assert_allclose(rescaled[0], plain[0], rtol=1e-9)
    assert (np.diff(rescaled) > 0).all()
    assert rescaled[-1] == max(schedules.HIGHEST, 2 * rescaled[-2])
    betas = schedules.without_terminal_signal(schedules.linear(1000))
    assert betas[-1] == 1.0
    root = np.sqrt(schedules.alphas_cumprod(schedules.linear(1000)))
    moved = np.sqrt(1 / (1 + rescaled[:-1] ** 2))
    line = np.polyfit(root[:-1], moved, 1)  # shifted and scaled, no more
    np.testing.assert_allclose(np.polyval(line, root[:-1]), moved, atol=1e-9)


@pytest.mark.parametrize("case", of("gd.space_timesteps"), ids=lambda c: c["id"])
def test_one_section_is_that_of_a_peer(case):
    given = case["in"]
    found = schedules.sections(tuple(given["sections"]), given["T"])
    np.testing.assert_array_equal(found[::-1], ARRAYS[case["out"]["timesteps"][1:]])


def test_sections_have_strides_of_their_own():
    """By hand: 10 = 4 + 3 + 3 timesteps, of which 2, 1 and 3 are visited."""
    assert schedules.sections((2, 1, 3), 10)[::-1].tolist() == [0, 3, 4, 7, 8, 9]
    grid = grids.sections((10, 15, 20))
    assert len(grid) == 46
    levels = schedules.chain_levels()
    wanted = schedules.sections((10, 15, 20), 1000)
    np.testing.assert_allclose(grid[:-1], levels[wanted], rtol=1e-6)
    assert wanted[0] == 999
    assert wanted[-1] == 0
    with pytest.raises(ValueError, match="section 1 of a chain of 10 has 5 timesteps"):
        schedules.sections((2, 6), 10)


# The way up.


@pytest.mark.parametrize("order", unless((2).__eq__, [1, 2]))
def test_inversion_leads_where_the_exact_flow_does(order):
    """At the order of its steps, from a level where the flow is smooth."""
    x0, errors = GAUSSIAN.sample(jr.key(1), 20), []
    for num_steps in (20, 40):
        sigmas = grids.karras(num_steps, sigma_min=0.2, sigma_max=20.0)[:-1]
        start = GAUSSIAN.flow(x0, 0.0, sigmas[-1])
        run = jax.jit(lambda x, s: editing.invert(GAUSSIAN.denoise, x, s, order=order))
        exact = GAUSSIAN.flow(start, sigmas[-1], sigmas[0])
        errors.append(float(jnp.abs(run(start, sigmas) - exact).max()))
    rates = np.log2(np.asarray(errors[:-1]) / errors[1:])
    assert (rates > order - 0.25).all(), (errors, rates)


def test_what_is_inverted_comes_back():
    x0 = GAUSSIAN.sample(jr.key(1), 20)
    sigmas = grids.karras(100, sigma_min=0.01, sigma_max=40.0)
    for order, sampler, bound in ((1, "euler", 0.1), (2, "heun", 5e-3)):

        @jax.jit
        def there_and_back(x0, order=order, sampler=sampler):
            up = editing.invert(GAUSSIAN.denoise, x0, sigmas, order=order)
            return ss.sample(sampler, GAUSSIAN.denoise, up, sigmas).x

        assert float(jnp.abs(there_and_back(x0) - x0).max()) < bound


@pytest.mark.slow
def test_a_translation_has_its_verdict():
    sde = ss.EDM(t_min=1e-3, t_max=100.0)
    score = ss.make_score(GAUSSIAN.denoise, sde)
    x0 = GAUSSIAN.sample(jr.key(1), 3)
    options = {"cond_from": None, "cond_to": None}
    found = editing.translated(score, sde, x0, **options, rtol=1e-6, atol=1e-6)
    plain = editing.translate(score, sde, x0, **options, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found.x, plain)
    gap = jnp.sqrt(((found.x - x0) ** 2).mean(1))
    np.testing.assert_allclose(found.returned, gap, rtol=1e-9)
    assert found.success.all()
    assert float(found.returned.max()) < 1e-4
    assert (found.num_evals > 0).all()
    loose = editing.translated(score, sde, x0, **options, rtol=1e-2, atol=1e-2)
    assert (loose.num_evals < found.num_evals).all()
    assert float(loose.returned.max()) > float(found.returned.max())


# PNDM's start.


def test_the_runge_kutta_start_is_the_classical_method_of_order_four():
    """Its three steps on dx/dsigma = eps, one by one; then Adams and Bashforth."""
    sigmas = jnp.asarray(np.linspace(4.0, 0.5, 8))
    x, sampler = 4 * jr.normal(jr.key(1), (3, 4)), SAMPLERS["plms"](start="runge_kutta")
    found = jax.jit(
        lambda x: ss.sample(sampler, GAUSSIAN.denoise, x, sigmas, return_path=True)
    )(x)

    @jax.jit
    def eps(x, sigma):
        return (x - GAUSSIAN.denoise(x, sigma)) / sigma

    past = []
    for k in range(7):
        sigma, h = sigmas[k], sigmas[k + 1] - sigmas[k]
        past = [eps(x, sigma), *past]
        if k < 3:
            k1 = past[0]
            k2 = eps(x + h / 2 * k1, sigma + h / 2)
            k3 = eps(x + h / 2 * k2, sigma + h / 2)
            k4 = eps(x + h * k3, sigma + h)
            x = x + h * (k1 + 2 * k2 + 2 * k3 + k4) / 6
        else:
            weights = (55 / 24, -59 / 24, 37 / 24, -9 / 24)
            x = x + h * sum(w * e for w, e in zip(weights, past, strict=False))
        np.testing.assert_allclose(found.path[k + 1], x, rtol=1e-9)
    assert int(found.num_evals) == 7 + 9


def test_the_runge_kutta_start_makes_plms_of_order_four():
    x, errors = 4 * jr.normal(jr.key(1), (3, 4)), []
    exact = GAUSSIAN.flow(x, 4.0, 1.0)
    for num_steps in (32, 64):
        sigmas = jnp.asarray(np.linspace(4.0, 1.0, num_steps + 1))
        sampler = SAMPLERS["plms"](start="runge_kutta")
        out = jax.jit(lambda x, s: ss.sample(sampler, GAUSSIAN.denoise, x, s).x)  # noqa: B023
        errors.append(float(jnp.abs(out(x, sigmas) - exact).max()))
    rates = np.log2(np.asarray(errors[:-1]) / errors[1:])
    assert rates[-1] > 3.6, (errors, rates)
    with pytest.raises(ValueError, match="start is 'euler'; choose from"):
        SAMPLERS["plms"](start="euler")
