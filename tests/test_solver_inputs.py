"""What `log_prob` and the solvers of the flow accept and refuse."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import GAUSSIAN, unless

import score_sde as ss


def score_of(oracle, sde):
    return lambda xt, t, cond=None: oracle.score(xt, t, sde=sde)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_solved_in_float32(dtype):
    """Data of N(0, 1/2), whose prior at t_max is exact to 1e-4 nats."""
    sde, variance = ss.EDM(), 0.5
    x = jnp.asarray([[0.3, -0.5], [1.0, 0.2]], dtype)

    def score(xt, t, cond=None):
        assert xt.dtype == t.dtype == jnp.float32
        return -xt / (variance + t**2)

    solve = partial(ss.log_prob, sde=sde, score=score, divergence="exact")
    out = jax.jit(partial(solve, solver="multistep"))(x)
    assert out.nats.dtype == out.latent.dtype == jnp.float32
    total = variance + sde.t_min**2
    exact = -0.5 * (np.asarray(x, np.float64) ** 2 / total + np.log(2 * np.pi * total))
    np.testing.assert_allclose(out.nats, exact.sum(1), atol=1e-3)
    back = jax.eval_shape(lambda x: ss.solve_ode(score, sde, x).x, x)
    assert back.dtype == jnp.float32


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "call",
    [
        lambda x: ss.log_prob(x, sde=ss.EDM(), score=lambda x, t, c: x),
        lambda x: ss.solve_ode(lambda x, t, c: x, ss.EDM(), x),
        lambda x: ss.solve_sde(jr.key(0), lambda x, t, c: x, ss.EDM(), x),
    ],
    ids=["log_prob", "solve_ode", "solve_sde"],
)
def test_complex_data_are_refused(call):
    with pytest.raises(
        ValueError,
        match="x is an array of complex64|numbers must be real, got complex64",
    ):
        call(jnp.ones((1, 2), jnp.complex64))


@pytest.mark.slow
def test_concrete_times_are_checked_inside_jit():
    sde, x = ss.EDM(), jnp.ones((1, 4))

    def solve(times, sde=sde):
        run = lambda x: ss.log_prob(  # noqa: E731
            x, sde=sde, score=score_of(GAUSSIAN, sde), divergence="exact", times=times
        )
        return jax.eval_shape(run, x)

    grid = jnp.geomspace(sde.t_min, sde.t_max, 4)
    for times in (grid, np.asarray(grid), grid.tolist()):
        assert solve(times).num_evals.shape == (1,)
    with pytest.raises(ValueError, match="times must increase to t_max = 80"):
        solve(grid / 2)
    with pytest.raises(ValueError, match="times must increase or decrease"):
        solve(jnp.asarray([1.0, 3.0, 2.0]))

    def of_traced(t_max, times):
        sde = ss.EDM(t_max=t_max)
        return ss.solve_ode(score_of(GAUSSIAN, sde), sde, x, times=times).x

    assert jax.eval_shape(lambda t: of_traced(t, grid), 80.0).shape == (1, 4)
    below_0 = -grid
    with pytest.raises(ValueError, match="times must be above 0 and at most t_max"):
        jax.eval_shape(lambda t: of_traced(t, below_0), 80.0)


@pytest.mark.parametrize("solver", unless(lambda s: s is None, ["multistep", None]))
def test_a_score_that_is_not_a_number_ends_its_solve_at_once(solver):
    sde = ss.EDM()
    x = GAUSSIAN.sample(jr.key(3), 3).at[1].set(100.0)

    def score(xt, t, cond=None):
        broken = (xt > 50).any(axis=1, keepdims=True) & (t < 0.5)
        return jnp.where(broken, jnp.nan, GAUSSIAN.score(xt, t, sde=sde))

    solve = partial(ss.log_prob, sde=sde, score=score, divergence="exact")
    out = jax.jit(partial(solve, solver=solver))(x)
    assert out.success.tolist() == [True, False, True]
    assert out.num_evals[1] <= 14  # two steps of Dopri5
    is_stated = np.isfinite(out.solver_error)
    assert is_stated.tolist() == ([True, False, True] if solver else [False] * 3)
