"""The multistep rule of `log_prob`, its stated error, and gradients of solves."""

from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import ALL_SDES, GAUSSIAN, MIXTURE, name_of, unless

import score_sde as ss
from score_sde import multistep_flow
from score_sde.multistep_flow import Multistep
from score_sde.samplers.multistep import advance, for_noise, interpolant


def score_of(oracle, sde):
    return lambda xt, t, cond=None: oracle.score(xt, t, sde=sde)


def points(oracle, sde, num, dtype=jnp.float64):
    """Points of the marginal at t_min, where log_prob takes its density."""
    x0 = oracle.sample(jr.key(3), num).astype(dtype)
    return ss.perturb(x0, jr.normal(jr.key(4), x0.shape, dtype), sde.t_min, sde=sde)


def solver_of(oracle, sde, **options):
    """Log-densities by the exact trace, with the exact marginal as the prior."""
    return jax.jit(
        partial(
            ss.log_prob,
            sde=sde,
            score=score_of(oracle, sde),
            divergence="exact",
            prior=lambda z: oracle.log_prob(z, sde.t_max, sde=sde),
            **options,
        )
    )


def solved(oracle, sde, num=40, *, dtype=jnp.float64, **options):
    """(result, its error a dimension) of points of the closed form."""
    x = points(oracle, sde, num, dtype)
    out = solver_of(oracle, sde, **options)(x)
    exact = oracle.log_prob(x, sde.t_min, sde=sde)
    return out, np.asarray(out.nats - exact) / x.shape[1]


def rms(a):
    return float(np.sqrt(np.mean(np.square(a))))


@pytest.mark.parametrize(
    ("sde", "oracle", "evaluations", "nats_per_dim"),
    [
        pytest.param(
            sde,
            *rest,
            id=f"{name_of(sde)}-{rest[1]}",
            marks=() if name_of(sde) == quick else pytest.mark.slow,
        )
        for sde in ALL_SDES
        for quick, *rest in (("", GAUSSIAN, 60, 1e-5), ("", MIXTURE, 75, 2e-5))
    ],
)
def test_the_default_tolerance_reaches_the_goals(
    sde, oracle, evaluations, nats_per_dim
):
    """At 1e-5, where Dopri5 takes 112 to 140 and errs by 4e-5 and 1e-4."""
    out, error = solved(oracle, sde, solver="multistep")
    assert out.success.all()
    assert out.num_evals.mean() <= evaluations
    assert rms(error) <= nats_per_dim
    assert (out.num_evals == 1 + out.num_accepted + out.num_rejected).all()


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("sde", ALL_SDES, ids=name_of)
def test_stated_errors_cover_95_percent_of_the_true_ones(sde, order):
    """Of both closed forms; and few are stated at more than 100 times the median."""
    tolerances = {1: (1e-2,), 2: (1e-2, 1e-3)}.get(order, (1e-3, 1e-4, 1e-5))
    ratios = []
    for oracle in (GAUSSIAN, MIXTURE):
        for tol in tolerances:
            solver = Multistep(order)
            out, error = solved(oracle, sde, 60, solver=solver, rtol=tol, atol=tol)
            dims = oracle.means.shape[1]
            ratios.append(dims * np.abs(error) / np.asarray(out.solver_error))
    assert np.mean(np.concatenate(ratios) < 1) >= 0.95
    assert np.median(np.concatenate(ratios)) > 0.01


@pytest.mark.slow
def test_stated_errors_cover_the_true_ones_of_a_fixed_grid_and_of_float32():
    sde = ss.EDM()
    times = np.geomspace(sde.t_min, sde.t_max, 41)
    out, error = solved(MIXTURE, sde, 60, solver="multistep", times=times)
    ratio = 2 * np.abs(error) / np.asarray(out.solver_error)
    assert (ratio < 1).mean() >= 0.95
    assert np.median(ratio) > 0.01
    # 1e-4 nats a dimension at the default tolerance is the goal of float32.
    out, error = solved(MIXTURE, sde, 60, solver="multistep", dtype=jnp.float32)
    assert out.solver_error.dtype == jnp.float32
    assert rms(error) < 1e-4
    assert (2 * np.abs(error) < np.asarray(out.solver_error)).mean() >= 0.95


def between_levels(sde, low=0.05, high=5.0):
    """The SDE between two noise levels, so that a start is no rest."""
    ends = (float(sde.t_from_sigma(jnp.asarray(s))) for s in (low, high))
    return type(sde)(**dict(zip(("t_min", "t_max"), ends, strict=True)))


def even_times(sde, num_steps):
    ends = jnp.log(sde.sigma(jnp.asarray([sde.t_min, sde.t_max])))
    times = np.array(sde.t_from_sigma(jnp.exp(jnp.linspace(*ends, num_steps + 1))))
    times[[0, -1]] = sde.t_min, sde.t_max  # as they are stated, unrounded
    return times


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    unless(
        lambda case: case[0] == 4 and name_of(case[1]) == "EDM",
        [(order, sde) for sde in ALL_SDES for order in (1, 2, 3, 4)],
    ),
    ids=lambda case: f"{case[0]}-{name_of(case[1])}",
)
def test_observed_order_of_the_log_density_and_of_the_flow(case):
    order, sde = case[0], between_levels(case[1])
    of_nats, of_latent, stated = [], [], []
    for num_steps in (80, 160):
        out, error = solved(
            GAUSSIAN, sde, 10, solver=Multistep(order), times=even_times(sde, num_steps)
        )
        assert (out.num_evals == num_steps + 1 + 2 * (order == 4)).all()
        x = points(GAUSSIAN, sde, 10) / sde.alpha(sde.t_min)
        exact = GAUSSIAN.flow(x, sde.sigma(sde.t_min), sde.sigma(sde.t_max))
        of_nats.append(rms(error))
        of_latent.append(rms(out.latent - sde.alpha(sde.t_max) * exact))
        stated.append(rms(out.solver_error))
    # Orders 2 and 3 come from below and above, as their error terms change sign.
    for errors in (of_nats, of_latent, stated):
        assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.45)


def test_a_step_is_that_of_the_sampler_and_of_the_polynomial(monkeypatch):
    """In log sigma, DEIS's step by phi functions; and exact for what it fits."""
    log_sigmas = jnp.asarray([-1.0, -1.2, -1.3, -1.7])  # the newest first
    next_log_sigma = jnp.asarray(-0.7)
    values = jr.normal(jr.key(0), (4, 3))
    past = multistep_flow.History(log_sigmas, values, values, jnp.asarray(4))

    @jax.jit
    def cubic(log_sigma):
        return jnp.polyval(
            jnp.asarray([1.0, -2.0, 0.5, 3.0]),
            multistep_flow.passed(log_sigma, jnp.asarray(-1.0)),
        )

    _, of_gain = jax.jit(multistep_flow._weights)(past, log_sigmas[0], next_log_sigma)
    nodes = jnp.concatenate([next_log_sigma[None], log_sigmas])
    fitted = cubic(nodes)
    grid = np.linspace(-1.0, -0.7, 20_001)
    exact = np.trapezoid(np.asarray(cubic(jnp.asarray(grid))), grid)
    for weights in (of_gain.predictor, of_gain.corrector):
        np.testing.assert_allclose(weights @ fitted, exact, rtol=1e-8)

    # Where LOW is 0 and HIGH infinite, tau is log sigma but for a factor.
    monkeypatch.setattr(multistep_flow, "LOW", 0.0)
    monkeypatch.setattr(multistep_flow, "HIGH", 1e9)
    of_x, _ = jax.jit(lambda *step: multistep_flow._weights(*step))(
        past, log_sigmas[0], next_log_sigma
    )
    ours = of_x.predictor[1:] @ values
    h = log_sigmas[0] - next_log_sigma  # of the sampler, which goes down
    terms = interpolant(tuple(values), tuple((log_sigmas[0] - log_sigmas) / h))
    coefficients = for_noise(jnp.exp(log_sigmas[0]), jnp.exp(next_log_sigma), 4)
    theirs = advance(jnp.zeros(3), coefficients, terms)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_unknown_solvers_and_orders_are_named():
    with pytest.raises(ValueError, match="unknown solver 'rk4'; choose from .'dopri5'"):
        ss.log_prob(
            jnp.ones((1, 4)),
            sde=ss.EDM(),
            score=score_of(GAUSSIAN, ss.EDM()),
            divergence="exact",
            solver="rk4",
        )
    with pytest.raises(ValueError, match="one of .1, 2, 3, 4., got 5"):
        Multistep(5)


@pytest.mark.slow
def test_the_spread_of_probes_and_the_solvers_error_are_apart(key):
    """Each probe is integrated by itself, and agrees with a tight solve by it."""
    sde, x = ss.EDM(), points(MIXTURE, ss.EDM(), 8)
    probes = partial(ss.likelihood.DIVERGENCES["hutchinson"], num_probes=3)
    solve = partial(
        ss.log_prob, sde=sde, score=score_of(MIXTURE, sde), key=key, divergence=probes
    )
    out = jax.jit(partial(solve, solver="multistep"))(x)
    tight = jax.jit(partial(solve, rtol=1e-8, atol=1e-8))(x)
    np.testing.assert_allclose(out.nats, tight.nats, atol=2e-4)
    np.testing.assert_allclose(out.probe_error, tight.probe_error, atol=2e-4)
    assert (out.solver_error < 1e-3).all()


@pytest.mark.parametrize(
    ("solver", "times"),
    [
        ("multistep", None),
        ("multistep", 40),
        (None, None),
    ],
)
@pytest.mark.slow
def test_gradients_are_differences_of_the_log_density(solver, times):
    """For the score and for the SDE; reverse mode needs an adjoint, forward none."""
    grid = None if times is None else np.geomspace(1e-3, 1.0, times + 1)

    def nats(parameters, adjoint=None):
        slope, beta_max = parameters
        sde = ss.VP(t_min=1e-3, beta_max=beta_max)
        out = ss.log_prob(
            jnp.asarray([[0.3, -0.5], [1.0, 0.2]]),
            sde=sde,
            score=lambda xt, t, cond=None: (
                -xt / (0.5 + sde.std(t) ** 2) + slope * jnp.tanh(xt)
            ),
            divergence="exact",
            solver=solver,
            times=grid,
            adjoint=adjoint,
        )
        return out.nats.sum()

    at = jnp.asarray([0.1, 12.0])
    reverse = jax.jit(
        jax.grad(partial(nats, adjoint=diffrax.RecursiveCheckpointAdjoint()))
    )(at)
    value = jax.jit(nats)
    for i, width in enumerate((0.05, 0.5)):
        shift = width * jnp.eye(2)[i]
        difference = (value(at + shift) - value(at - shift)) / (2 * width)
        # The steps of an adaptive solve jump with the parameters, by its tolerance: the
        # differences are that exact, divided by their width.
        np.testing.assert_allclose(reverse[i], difference, rtol=1e-2, atol=1e-2)
    forward = jax.jit(lambda at, v: jax.jvp(nats, (at,), (v,))[1])
    np.testing.assert_allclose(forward(at, jnp.eye(2)[0]), reverse[0], rtol=1e-8)


@pytest.mark.slow
def test_solve_ode_has_gradients_by_an_adjoint():
    sde, x = ss.EDM(), jnp.asarray([[0.3, -0.5]])

    def end(scale):
        score = lambda xt, t, cond=None: -xt / (scale + t**2)  # noqa: E731
        return ss.solve_ode(
            score,
            sde,
            80 * x,
            times=np.geomspace(sde.t_max, sde.t_min, 31),
            adjoint=diffrax.RecursiveCheckpointAdjoint(),
        ).x.sum()

    slope = jax.jit(jax.grad(end))(2.0)
    # x shrinks by the root of (scale + t_min^2) / (scale + t_max^2).
    exact = jax.grad(
        lambda s: 80 * x.sum() * jnp.sqrt((s + sde.t_min**2) / (s + sde.t_max**2))
    )(2.0)
    np.testing.assert_allclose(slope, exact, rtol=1e-3)


def test_the_config_chooses_the_solver_and_reports_its_error():
    from score_sde.run.likelihoods import solver_options
    from score_sde.run.score import _stated_error
    from score_sde.run.settings import Scoring

    with pytest.raises(ValueError, match="solver 'multistep' where num_steps > 0"):
        Scoring(solver="dopri5", num_steps=8)
    for sde in ALL_SDES:
        options = solver_options(Scoring(solver="multistep", order=3, num_steps=8), sde)
        assert options["solver"] == Multistep(3)
        times = np.asarray(options["times"])
        assert times[0] == pytest.approx(sde.t_min, rel=1e-6)
        assert times[-1] == pytest.approx(sde.t_max, rel=1e-6)
        log_sigmas = np.log(np.asarray(sde.sigma(options["times"])))
        np.testing.assert_allclose(
            np.diff(log_sigmas), np.ptp(log_sigmas) / 8, rtol=1e-4
        )
    assert "times" not in solver_options(Scoring(solver="multistep"), sde)
    scores = {
        "solver_error": np.asarray([1.0, np.nan, 3.0]) * np.log(2),
        "success": np.asarray([True, False, True]),
    }
    stated = _stated_error(scores, 4, fixed=True)
    assert stated == {"solver": pytest.approx(0.5)}
    assert _stated_error(scores, 4, fixed=False).keys() == {"solver_bound"}
    scores["success"][1] = True  # of a solver that states none
    assert _stated_error(scores, 4, fixed=False) == {}
