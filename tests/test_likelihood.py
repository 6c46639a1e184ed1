from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import ALL_SDES, GAUSSIAN, MIXTURE, golden, name_of, problems

import score_sde as ss
from score_sde import likelihood
from score_sde.likelihood import DIVERGENCES

CASES, ARRAYS = golden("k_diffusion")
sweep = pytest.mark.parametrize("sde", ALL_SDES, ids=name_of)
ORACLES = pytest.mark.parametrize("oracle", [GAUSSIAN, MIXTURE], ids=name_of)


def score_of(oracle, sde):
    return lambda xt, t, cond=None: oracle.score(xt, t, sde=sde)


def noised(oracle, sde, num, dtype=jnp.float64):
    """Points of the marginal at t_min, where log_prob takes its density."""
    x0 = oracle.sample(jr.key(3), num).astype(dtype)
    return ss.perturb(x0, jr.normal(jr.key(4), x0.shape, dtype), sde.t_min, sde=sde)


def of_marginal(oracle, sde):
    """The exact density at t_max in the place of the prior, to isolate the solver."""
    return lambda z: oracle.log_prob(z, sde.t_max, sde=sde)


@sweep
@ORACLES
@pytest.mark.parametrize(
    ("dtype", "tolerance", "nats_per_dim"),
    [(jnp.float64, 1e-7, 1e-4), (jnp.float32, 1e-5, 1e-3)],
    ids=["float64", "float32"],
)
def test_log_density_is_the_closed_form(sde, oracle, dtype, tolerance, nats_per_dim):
    x = noised(oracle, sde, 20, dtype)
    out = jax.jit(
        lambda x: ss.log_prob(
            x,
            sde=sde,
            score=score_of(oracle, sde),
            divergence="exact",
            rtol=tolerance,
            atol=tolerance,
            prior=of_marginal(oracle, sde),
        )
    )(x)
    exact = oracle.log_prob(x, sde.t_min, sde=sde)
    assert out.success.all()
    assert out.nats.dtype == dtype
    np.testing.assert_allclose(out.nats, exact, rtol=0, atol=nats_per_dim * x.shape[1])


@sweep
def test_the_prior_costs_less_than_a_hundredth_of_a_nat_per_dimension(sde):
    """And its mean over the data far less: it is off by their mean and variance."""
    x = noised(GAUSSIAN, sde, 200)
    out = ss.log_prob(
        x,
        sde=sde,
        score=score_of(GAUSSIAN, sde),
        divergence="exact",
        rtol=1e-6,
        atol=1e-6,
    )
    off = np.asarray(out.nats - GAUSSIAN.log_prob(x, sde.t_min, sde=sde)) / 4
    assert np.abs(off).max() < 1e-2
    assert np.abs(off.mean()) < 1e-3


@sweep
def test_the_latent_is_the_exact_flow_and_solve_ode_leads_back(sde):
    x = noised(GAUSSIAN, sde, 5)
    score = score_of(GAUSSIAN, sde)
    out = ss.log_prob(x, sde=sde, score=score, divergence="exact", rtol=1e-9, atol=1e-9)
    start, end = sde.t_min, sde.t_max
    exact = GAUSSIAN.flow(x / sde.alpha(start), sde.sigma(start), sde.sigma(end))
    np.testing.assert_allclose(out.latent, sde.alpha(end) * exact, rtol=1e-5)
    back = ss.solve_ode(score, sde, out.latent, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(back.x, x, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["hutchinson", "hutchinson_gaussian"])
def test_hutchinson_is_unbiased_within_its_own_error(name):
    """2,000 probes of one point of a correlated Gaussian, whose trace has variance."""
    sde = ss.VP()
    x = jnp.tile(noised(GAUSSIAN, sde, 1), (2_000, 1))
    solve = partial(
        ss.log_prob, sde=sde, score=score_of(GAUSSIAN, sde), rtol=1e-5, atol=1e-5
    )
    exact = solve(x[:1], divergence="exact").nats[0]
    nats = np.asarray(solve(x, divergence=name, key=jr.key(7)).nats)
    error = nats.std() / np.sqrt(2_000)
    assert error > 1e-3  # it does vary
    assert abs(nats.mean() - exact) < 4 * error


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences_of_a_linear_drift(name, key):
    """Exact: the trace. Hutchinson: v A v, whose mean over probes is the trace."""
    matrix = jr.normal(key, (3, 3))
    x = jnp.arange(3.0)
    keys = jr.split(jr.key(1), 20_000)
    value, trace = jax.vmap(lambda k: DIVERGENCES[name](lambda x: matrix @ x, x, k))(
        keys
    )
    np.testing.assert_allclose(value[0], matrix @ x, rtol=1e-12)
    error = 5 * float(trace.std()) / np.sqrt(20_000) + 1e-12
    assert abs(float(trace.mean()) - float(jnp.trace(matrix))) < error


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c["id"].endswith("/tight")],
    ids=lambda c: c["id"],
)
def test_log_likelihood_is_that_of_a_peer(case):
    """With its probes: noise sigma_min on x, prior N(0, sigma_max^2)."""
    given = case["in"]
    x, v = (jnp.asarray(ARRAYS[given[k][1:]]) for k in ("x", "v"))
    sde = ss.EDM(t_min=given["sigma_min"], t_max=given["sigma_max"])
    oracle = problems()[case["problem"]]

    def with_their_probes(x, v):
        probed = lambda drift, x, key: likelihood._probed(drift, x, v)  # noqa: E731
        return ss.log_prob(
            x[None],
            sde=sde,
            score=score_of(oracle, sde),
            key=jr.key(0),
            divergence=probed,
            rtol=1e-9,
            atol=1e-9,
        ).nats[0]

    nats = jax.vmap(with_their_probes)(x, v)
    expected = ARRAYS[case["out"]["ll"][1:]]
    np.testing.assert_allclose(nats, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c["function"] == "kd.log_likelihood_exact"],
    ids=lambda c: c["id"],
)
def test_exact_log_likelihood_is_that_of_a_peer(case):
    given = case["in"]
    x = jnp.asarray(ARRAYS[given["x"][1:]])
    sde = ss.EDM(t_min=given["sigma_min"], t_max=given["sigma_max"])
    oracle = problems()[case["id"].split("/")[1]]
    nats = ss.log_prob(
        x,
        sde=sde,
        score=score_of(oracle, sde),
        divergence="exact",
        rtol=1e-8,
        atol=1e-8,
    ).nats
    expected = ARRAYS[case["out"]["ll_ode_exact_trace"][1:]]
    np.testing.assert_allclose(nats, expected, rtol=1e-6, atol=1e-4)


def test_any_solver_and_a_fixed_grid_agree():
    sde, x = ss.VP(), noised(GAUSSIAN, ss.VP(), 4)
    solve = partial(
        ss.log_prob, x, sde=sde, score=score_of(GAUSSIAN, sde), divergence="exact"
    )
    reference = solve(rtol=1e-8, atol=1e-8).nats
    other = solve(solver=diffrax.Dopri8(), rtol=1e-7, atol=1e-7).nats
    np.testing.assert_allclose(other, reference, atol=1e-4)
    off = []
    for num_steps in (200, 400):
        ends = sde.sigma(sde.t_min), sde.sigma(sde.t_max)
        times = sde.t_from_sigma(jnp.geomspace(*ends, num_steps + 1))
        fixed = solve(solver=diffrax.Heun(), times=times)
        assert (fixed.num_evals == 2 * num_steps).all()
        off.append(np.abs(fixed.nats - reference).max())
    assert np.log2(off[0] / off[1]) == pytest.approx(2, abs=0.2)  # second order


def test_an_example_does_not_depend_on_its_batch(key):
    sde, x = ss.VP(), noised(GAUSSIAN, ss.VP(), 6)
    solve = partial(ss.log_prob, sde=sde, score=score_of(GAUSSIAN, sde), key=key)
    whole, part = solve(x), solve(x[:2])
    np.testing.assert_allclose(part.nats, whole.nats[:2], rtol=1e-9)
    np.testing.assert_array_equal(part.num_evals, whole.num_evals[:2])


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_broken_score_ends_is_reported_and_spares_the_others(bad, key):
    sde, x = ss.VP(), noised(GAUSSIAN, ss.VP(), 3)
    marked = x.at[1].set(100.0)

    def score(xt, t, cond=None):
        broken = (xt > 50).any(axis=1, keepdims=True)
        return jnp.where(broken, bad, GAUSSIAN.score(xt, t, sde=sde))

    out = ss.log_prob(marked, sde=sde, score=score, divergence="exact")
    assert out.success.tolist() == [True, False, True]
    clean = ss.log_prob(x, sde=sde, score=score, divergence="exact")
    np.testing.assert_allclose(out.nats[::2], clean.nats[::2], rtol=1e-9)
    assert out.num_evals[1] < 1_000


def test_conditions_are_each_examples_own():
    sde = ss.EDM()

    def score(xt, t, cond=None):
        """N(cond, 1) noised: one mean per example."""
        return -(xt - cond[:, None]) / (1 + t**2)

    mean = jnp.asarray([0.0, 0.5, -0.5])
    x = jnp.zeros((3, 2))
    out = ss.log_prob(x, sde=sde, score=score, divergence="exact", cond=mean)
    variance = 1 + sde.t_min**2
    exact = -(mean**2) / variance - np.log(2 * np.pi * variance)
    # Prior N(0, t_max^2) against a mean of 0.5: below 0.01 nats.
    np.testing.assert_allclose(out.nats, exact, atol=1e-2)


def test_bits_per_dim_of_the_uniform_density_is_the_entropy_of_the_levels():
    """On [-1, 1]^D, density 2^-D, every level is equally likely: log2(levels) bits."""
    for num_dims, num_levels in ((64, 17), (3072, 256)):
        nats = jnp.full(3, -num_dims * np.log(2))
        bits = ss.bits_per_dim(nats, num_dims=num_dims, num_levels=num_levels)
        np.testing.assert_allclose(bits, np.log2(num_levels), rtol=1e-12)
    continuous = ss.bits_per_dim(jnp.zeros(1), num_dims=3, num_levels=None)
    np.testing.assert_allclose(continuous, 0.0)


def test_bits_per_dim_of_eight_bits_has_the_published_offset():
    assert float(ss.bits_per_dim(jnp.zeros(()), num_dims=3072)) == 7.0


def test_standard_error_is_that_of_scipy():
    from scipy.stats import sem

    values = np.asarray([1.0, 2.0, 4.0, 8.0])
    mean, error = ss.mean_and_error(values)
    assert float(mean) == 3.75
    assert float(error) == pytest.approx(sem(values), rel=1e-12)


def test_bad_input_is_answered_before_any_solve():
    solve = partial(ss.log_prob, jnp.ones((1, 2)), sde=ss.VP(), score=None)
    with pytest.raises(
        ValueError, match=r"unknown divergence 'trace'; choose from \['exact'"
    ):
        solve(divergence="trace")
    with pytest.raises(ValueError, match="a random divergence needs a key"):
        solve()


def test_one_trace_serves_many_calls(key):
    traces = []

    def score(xt, t, cond=None):
        traces.append(1)
        return GAUSSIAN.score(xt, t, sde=ss.VP())

    solve = jax.jit(
        lambda x, key: ss.log_prob(x, sde=ss.VP(), score=score, key=key).nats
    )
    x = noised(GAUSSIAN, ss.VP(), 2)
    solve(x, key)
    first = len(traces)
    for seed in range(3):
        solve(x, jr.key(seed))
    assert len(traces) == first
