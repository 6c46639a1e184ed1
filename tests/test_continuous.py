"""solve_ode and solve_sde, and the counts of `integrate`."""

from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import GAUSSIAN, ONE_SDE, SOME_SDES, name_of

import score_sde as ss
from score_sde import grids
from score_sde.integrate import evals

sweep = pytest.mark.parametrize("sde", SOME_SDES, ids=name_of)
sweep_one = pytest.mark.parametrize("sde", ONE_SDE, ids=name_of)


def score_of(sde):
    return lambda xt, t, cond=None: GAUSSIAN.score(xt, t, sde=sde)


def exact(sde, x, t0, t1):
    carried = GAUSSIAN.flow(x / sde.alpha(t0), sde.sigma(t0), sde.sigma(t1))
    return sde.alpha(t1) * carried


def even_log_sigma(sde, num_steps, low=0.05, high=5.0):
    return sde.t_from_sigma(jnp.geomspace(high, low, num_steps + 1))


@pytest.mark.slow
@sweep
def test_the_adaptive_flow_is_the_exact_one(sde, key):
    x = ss.prior_sample(key, (5, 4), sde=sde)
    out = ss.solve_ode(score_of(sde), sde, x, rtol=1e-9, atol=1e-9)
    assert out.success.all()
    expected = exact(sde, x, sde.t_max, sde.t_min)
    np.testing.assert_allclose(out.x, expected, rtol=1e-5, atol=1e-7)


@sweep_one
@pytest.mark.parametrize(
    ("solver", "order"),
    [
        pytest.param(diffrax.Euler(), 1, marks=pytest.mark.slow),
        (diffrax.Heun(), 2),
        pytest.param(diffrax.Bosh3(), 3, marks=pytest.mark.slow),
    ],
    ids=["Euler", "Heun", "Bosh3"],
)
def test_observed_order_of_fixed_steps(sde, solver, order, key):
    times = [even_log_sigma(sde, n) for n in (60, 120)]
    x = sde.std(times[0][0]) * jr.normal(key, (5, 4))
    expected = exact(sde, x, times[0][0], times[0][-1])
    coarse, fine = (
        np.abs(
            ss.solve_ode(score_of(sde), sde, x, times=t, solver=solver).x - expected
        ).max()
        for t in times
    )
    assert np.log2(coarse / fine) == pytest.approx(order, abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [
        diffrax.Euler(),
        diffrax.Heun(),
        pytest.param(diffrax.Midpoint(), marks=pytest.mark.slow),
        pytest.param(diffrax.Bosh3(), marks=pytest.mark.slow),
        pytest.param(diffrax.Tsit5(), marks=pytest.mark.slow),
        diffrax.Dopri5(),
        diffrax.Dopri8(),
        diffrax.HalfSolver(diffrax.Euler()),
    ],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize("adaptive", [False, True])
def test_ode_evaluations_are_counted_exactly(solver, adaptive, key):
    if adaptive and isinstance(solver, diffrax.Euler):
        pytest.skip("Euler has no error estimate")
    sde, calls = ss.VP(), []

    def score(xt, t, cond=None):
        jax.debug.callback(lambda: calls.append(1))
        return GAUSSIAN.score(xt, t, sde=sde)

    x = 0.1 * ss.prior_sample(key, (1, 4), sde=sde)
    grid = {} if adaptive else {"times": even_log_sigma(sde, 10)}
    out = ss.solve_ode(score, sde, x, solver=solver, rtol=1e-2, atol=1e-2, **grid)
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert out.num_evals[0] == len(calls)
    assert out.num_accepted[0] + out.num_rejected[0] >= 10 - 10 * adaptive


@pytest.mark.parametrize(
    "solver",
    [
        diffrax.Euler(),
        pytest.param(diffrax.EulerHeun(), marks=pytest.mark.slow),
        pytest.param(diffrax.Heun(), marks=pytest.mark.slow),
        pytest.param(diffrax.SRA1(), marks=pytest.mark.slow),
        pytest.param(diffrax.ShARK(), marks=pytest.mark.slow),
    ],
    ids=lambda s: type(s).__name__,
)
def test_sde_evaluations_are_counted_exactly(solver, key):
    sde, calls = ss.VP(), []

    def score(xt, t, cond=None):
        jax.debug.callback(lambda: calls.append(1))
        return GAUSSIAN.score(xt, t, sde=sde)

    x = ss.prior_sample(key, (1, 4), sde=sde)
    out = ss.solve_sde(key, score, sde, x, solver=solver, num_steps=7)
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert out.num_evals[0] == len(calls)


def has_moments_of_the_data(x, bias):
    covariance = np.asarray(GAUSSIAN.covariance())
    scale = np.sqrt(np.diag(covariance))
    bound = (5 * np.sqrt(2 / len(x)) + bias) * np.outer(scale, scale)
    mean_is_right = (
        np.abs(x.mean(0) - GAUSSIAN.mean()) < (5 / np.sqrt(len(x)) + bias) * scale
    )
    return mean_is_right.all() and (np.abs(np.cov(x.T) - covariance) < bound).all()


@pytest.mark.slow
@sweep_one
def test_the_reverse_sde_has_the_moments_of_the_data(sde, key):
    """Euler-Maruyama, 400 steps; its bias of first order is 2 % here (measured)."""
    x = ss.prior_sample(key, (10_000, 4), sde=sde)
    draw = jax.jit(
        lambda x: ss.solve_sde(jr.key(1), score_of(sde), sde, x, num_steps=400)
    )
    out = draw(x)
    assert out.success.all()
    assert has_moments_of_the_data(out.x / sde.alpha(sde.t_min), bias=0.03)


@pytest.mark.slow
def test_a_higher_order_sde_solver_needs_fewer_steps(key):
    sde = ss.VP()
    x = ss.prior_sample(key, (10_000, 4), sde=sde)
    draw = jax.jit(
        lambda x: (
            ss.solve_sde(
                jr.key(1), score_of(sde), sde, x, solver=diffrax.ShARK(), num_steps=100
            ).x
        )
    )
    assert has_moments_of_the_data(draw(x), bias=0.01)


@pytest.mark.slow
def test_the_adaptive_sde_reports_its_steps(key):
    sde = ss.VP()
    x = ss.prior_sample(key, (500, 4), sde=sde)
    out = jax.jit(
        lambda x: ss.solve_sde(
            jr.key(1), score_of(sde), sde, x, solver=diffrax.SPaRK(), adaptive=True
        )
    )(x)
    assert out.success.all()
    assert has_moments_of_the_data(out.x, bias=0.05)
    assert len(set(out.num_accepted.tolist())) > 1  # steps are each example's own


@pytest.mark.slow
def test_solves_do_not_depend_on_the_batch(key):
    sde = ss.VP()
    x = ss.prior_sample(key, (6, 4), sde=sde)
    for solve in (
        partial(ss.solve_ode, score_of(sde), sde),
        partial(ss.solve_sde, jr.key(1), score_of(sde), sde, num_steps=20),
    ):
        np.testing.assert_allclose(
            solve(x[:2]).x, solve(x).x[:2], rtol=1e-9, atol=1e-12
        )


@pytest.mark.slow
def test_a_broken_score_is_reported_per_example(key):
    sde = ss.VP()

    def score(xt, t, cond=None):
        broken = (xt[:, :1] > 50) & (t < 0.5)
        return jnp.where(broken, jnp.nan, GAUSSIAN.score(xt, t, sde=sde))

    x = ss.prior_sample(key, (3, 4), sde=sde).at[1].set(1e6)
    out = ss.solve_ode(score, sde, x)
    assert out.success.tolist() == [True, False, True]


def test_bad_input_is_answered_before_any_solve():
    x = jnp.ones((1, 4))
    with pytest.raises(ValueError, match="either times, or t0 and t1"):
        ss.solve_ode(
            score_of(ss.VP()), ss.VP(), x, t0=1.0, times=jnp.asarray([1.0, 0.5])
        )
    solve = partial(ss.solve_ode, score_of(ss.VP()), ss.VP(), x)
    with pytest.raises(
        ValueError, match=r"above 0 and at most t_max = 1.0, got \[1. 0"
    ):
        solve(t1=0.0)
    with pytest.raises(ValueError, match=r"at most t_max = 1.0, got \[1.5"):
        solve(t0=1.5)
    with pytest.raises(ValueError, match="times must increase or decrease"):
        solve(times=[1.0, 0.5, 0.7])
    with pytest.raises(ValueError, match="rtol is -1.0; it must be >= 0"):
        solve(rtol=-1.0)
    with pytest.raises(ValueError, match="num_steps is 0; it must be >= 1"):
        ss.solve_sde(jr.key(0), score_of(ss.VP()), ss.VP(), x, num_steps=0)
    with pytest.raises(
        ValueError, match="Kvaerno3 is implicit; use an explicit solver"
    ):
        ss.solve_ode(score_of(ss.VP()), ss.VP(), x, solver=diffrax.Kvaerno3())
    assert evals(diffrax.Tsit5()) == (1, 6)


@pytest.mark.parametrize("solve", ["sample", "solve_ode", "solve_sde"])
def test_a_start_without_its_noise_is_warned_of(solve, key):
    """N(0, 1) at sigma = 80 carries a law of its own, whose samples look like some."""
    sde = ss.VE(sigma_min=0.01, sigma_max=80.0)
    score, times = score_of(sde), even_log_sigma(sde, 2, high=80.0)
    grid = grids.karras(2, sigma_min=0.01, sigma_max=80.0)
    start = {
        "sample": lambda x: ss.sample("euler", GAUSSIAN.denoise, x, grid),
        "solve_ode": lambda x: ss.solve_ode(score, sde, x, times=times),
        "solve_sde": lambda x: ss.solve_sde(key, score, sde, x, times=times),
    }[solve]
    z = jr.normal(key, (32, 4))
    with pytest.warns(UserWarning, match="mean square of 1.* at noise level 80: it"):
        start(z)
    start(80 * z)
    if solve == "solve_ode":
        ss.solve_ode(score, sde, z, times=times[::-1])  # upwards it is data
    if solve == "sample":
        with pytest.warns(UserWarning, match="at noise level 80: it"):
            jax.jit(lambda: start(z).x)()  # grid and x are known where it is traced
        jax.jit(start)(z)  # has no values to see
        start(z[:10])  # too few numbers to tell
