from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import (
    ALL_SDES,
    GAUSSIAN,
    MIXTURE,
    ONE_SDE,
    SOME_SDES,
    golden,
    name_of,
    problems,
    unless,
)
from scipy import stats

import score_sde as ss
from score_sde import divergences, likelihood
from score_sde.likelihood import DIVERGENCES
from score_sde.precondition import PRECONDITIONERS

CASES, ARRAYS = golden("k_diffusion")
SDE_CASES, SDE_ARRAYS = golden("score_sde_likelihood")
sweep = pytest.mark.parametrize("sde", ALL_SDES, ids=name_of)
sweep_some = pytest.mark.parametrize("sde", SOME_SDES, ids=name_of)
sweep_one = pytest.mark.parametrize("sde", ONE_SDE, ids=name_of)


def score_of(oracle, sde):
    return lambda xt, t, cond=None: oracle.score(xt, t, sde=sde)


def noised(oracle, sde, num, dtype=jnp.float64):
    """Points of the marginal at t_min, where log_prob takes its density."""
    x0 = oracle.sample(jr.key(3), num).astype(dtype)
    return ss.perturb(x0, jr.normal(jr.key(4), x0.shape, dtype), sde.t_min, sde=sde)


def of_marginal(oracle, sde):
    """The exact density at t_max in the place of the prior, to isolate the solver."""
    return lambda z: oracle.log_prob(z, sde.t_max, sde=sde)


@sweep_one
@pytest.mark.parametrize(
    ("oracle", "dtype", "tolerance", "nats_per_dim"),
    [
        # The largest error is 3e-7 at this tolerance, and falls with it.
        (GAUSSIAN, jnp.float64, 1e-7, 1e-6),
        pytest.param(MIXTURE, jnp.float64, 1e-7, 1e-6, marks=pytest.mark.slow),
        pytest.param(MIXTURE, jnp.float32, 1e-5, 1e-3, marks=pytest.mark.slow),
    ],
    ids=["Gaussian", "GaussianMixture", "float32"],
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
    assert (out.probe_error == 0).all()
    np.testing.assert_allclose(out.nats, exact, rtol=0, atol=nats_per_dim * x.shape[1])


@pytest.mark.slow
@sweep_one
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


@pytest.mark.slow
@sweep_one
def test_latents_are_the_exact_flow_and_solve_ode_decodes_what_lies_between(sde):
    x = noised(GAUSSIAN, sde, 6)
    score = score_of(GAUSSIAN, sde)
    out = ss.log_prob(x, sde=sde, score=score, divergence="exact", rtol=1e-8, atol=1e-8)
    start, end = sde.t_min, sde.t_max
    exact = GAUSSIAN.flow(x / sde.alpha(start), sde.sigma(start), sde.sigma(end))
    np.testing.assert_allclose(out.latent, sde.alpha(end) * exact, rtol=1e-5)
    between = likelihood.interpolate(out.latent[:3], out.latent[3:], 0.3)
    latents = jnp.concatenate([out.latent, between])
    back = ss.solve_ode(score, sde, latents, rtol=1e-8, atol=1e-8).x
    np.testing.assert_allclose(back[:6], x, rtol=1e-5, atol=1e-7)
    exact = GAUSSIAN.flow(between / sde.alpha(end), sde.sigma(end), sde.sigma(start))
    np.testing.assert_allclose(back[6:], sde.alpha(start) * exact, rtol=1e-5, atol=1e-7)


def test_interpolation_follows_the_great_circle(key):
    first, second = jr.normal(key, (2, 3, 4))
    second = 2 * second  # two lengths, so that only directions turn
    for share, expected in ((0.0, first), (1.0, second)):
        np.testing.assert_allclose(
            likelihood.interpolate(first, second, share), expected, atol=1e-12
        )
    quarter = likelihood.interpolate(
        jnp.eye(3, 4), jnp.roll(jnp.eye(3, 4), 1, axis=1), jnp.full(3, 0.5)
    )
    np.testing.assert_allclose((quarter**2).sum(1), 1.0)  # orthogonal: the length stays
    assert (quarter[0] == quarter[0, 0] * jnp.asarray([1, 1, 0, 0.0])).all()
    np.testing.assert_allclose(likelihood.interpolate(first, first, 0.4), first)


SHARED = [  # One range of sigma, in the times of each SDE.
    type(sde)(
        t_min=float(sde.t_from_sigma(jnp.asarray(0.02))),
        t_max=float(sde.t_from_sigma(jnp.asarray(20.0))),
    )
    for sde in (ss.VP(), ss.SubVP(), ss.VE(), ss.EDM())
]


@pytest.mark.slow
def test_log_density_does_not_depend_on_the_coordinates():
    """One denoiser under each SDE; xt = alpha x, whose density is p(x) / alpha^dims."""
    x = MIXTURE.sample(jr.key(3), 10)
    rows = []
    for sde in SHARED:
        alpha = sde.alpha(sde.t_min)
        out = ss.log_prob(
            alpha * x,
            sde=sde,
            score=ss.make_score(MIXTURE.denoise, sde),
            divergence="exact",
            rtol=1e-6,
            atol=1e-6,
        )
        rows.append(out.nats + x.shape[1] * jnp.log(alpha))
    # The solver sees one flow in all of them; t_from_sigma rounds and may move a step.
    np.testing.assert_allclose(rows, np.tile(rows[0], (len(rows), 1)), atol=1e-6)


@pytest.mark.slow
def test_log_density_is_the_jacobian_of_the_encoder_for_every_preconditioner(key):
    """Nats = prior(z) + log |det dz/dx|, for a network that is no oracle."""
    weights = jr.normal(key, (2, 3, 3))

    def network(x, noise, cond=None):
        angle = jnp.log1p(jnp.abs(noise))[:, None]
        return jnp.tanh(x @ weights[0] + jnp.sin(angle)) @ weights[1]

    made = [ss.make_denoiser(network, make) for make in PRECONDITIONERS.values()]

    def denoise(x, sigma, cond=None):
        """All at once, so that one program is compiled; `cond` picks one."""
        every = jnp.stack([one(x, sigma) for one in made], axis=1)
        return jnp.take_along_axis(every, cond[:, None, None], axis=1)[:, 0]

    sde = ss.EDM(t_min=0.1, t_max=10.0)
    which = jnp.arange(len(made))
    x = jnp.tile(jnp.asarray([[0.3, -0.5, 0.2]]), (len(made), 1))
    times = jnp.geomspace(0.1, 10.0, 121)
    solve = partial(
        ss.log_prob,
        sde=sde,
        score=ss.make_score(denoise, sde),
        divergence="exact",
        times=times,
    )
    out = solve(x, cond=which)

    @jax.jit
    @jax.vmap
    def jacobian(x, which):
        encode = lambda x: solve(x[None], cond=which[None]).latent[0]  # noqa: E731
        return jax.jacfwd(encode)(x)

    log_det = jnp.linalg.slogdet(jacobian(x, which))[1]
    exact = ss.prior_log_prob(out.latent, sde=sde) + log_det
    # Two discretisations of one flow; that of iDDPM jumps between its 1,000 levels.
    allowed = np.where(np.asarray(list(PRECONDITIONERS)) == "iddpm", 1e-2, 1e-5)
    assert (np.abs(out.nats - exact) < allowed).all(), out.nats - exact


@pytest.mark.slow
def test_hutchinson_is_unbiased_and_within_its_stated_error():
    """400 times 32 probes of one point of a correlated Gaussian.

    So many, since in 4 dimensions a probe has one of 8 values, far from normal.
    """
    sde = ss.VP()
    x = jnp.tile(noised(GAUSSIAN, sde, 1), (400, 1))
    solve = partial(
        ss.log_prob, sde=sde, score=score_of(GAUSSIAN, sde), rtol=1e-5, atol=1e-5
    )
    exact = solve(x[:1], divergence="exact").nats[0]
    probes = partial(DIVERGENCES["hutchinson"], num_probes=32)
    out = solve(x, divergence=probes, key=jr.key(7))
    off = np.asarray(out.nats - exact)
    assert off.std() > 0.1  # it does vary
    assert abs(off.mean()) < 4 * off.std() / np.sqrt(400)
    within = np.abs(off) < stats.t.ppf(0.975, df=31) * np.asarray(out.probe_error)
    # Three standard errors of a share of 95 % in 400.
    assert within.mean() == pytest.approx(0.95, abs=0.033)


@pytest.mark.parametrize("name", sorted(DIVERGENCES.keys() - {"exact"}))
@pytest.mark.parametrize("num_probes", [1, 6])
def test_random_traces_are_unbiased_and_within_their_error(name, num_probes, key):
    """Of a drift that is not linear, at a point, in 95 % of 20,000 repeats."""
    matrix = jr.normal(key, (12, 12))
    drift, x = lambda x: jnp.sin(matrix @ x), jnp.arange(12.0) / 10
    if name == "hierarchical":  # its probes are one estimate, and a power of two
        num_probes = {1: 1, 6: 4}[num_probes]
    divergence = partial(DIVERGENCES[name], num_probes=num_probes)
    num_probes = 1 if name == "hierarchical" else num_probes
    keys = jr.split(jr.key(1), 20_000)
    value, traces = jax.jit(jax.vmap(lambda k: divergence(drift, x, k)))(keys)
    assert traces.shape == (20_000, num_probes)
    np.testing.assert_allclose(value[0], drift(x), rtol=1e-12)
    exact = jnp.trace(jax.jacfwd(drift)(x))
    off = traces.mean(1) - exact
    assert abs(off.mean()) < 4 * off.std() / np.sqrt(20_000)
    if num_probes > 1:
        error = traces.std(1, ddof=1) / np.sqrt(num_probes)
        within = jnp.abs(off) < stats.t.ppf(0.975, df=num_probes - 1) * error
        # Quadratic forms have heavier tails than the t distribution assumes.
        assert float(within.mean()) == pytest.approx(0.95, abs=0.015)


def test_the_exact_trace_is_the_trace(key):
    matrix = jr.normal(key, (3, 3))
    value, trace = DIVERGENCES["exact"](lambda x: matrix @ x, jnp.arange(3.0), None)
    np.testing.assert_allclose(value, matrix @ jnp.arange(3.0), rtol=1e-12)
    np.testing.assert_allclose(trace, [jnp.trace(matrix)], rtol=1e-12)


def test_the_variances_of_probes_are_the_published_ones(key):
    """Of a symmetric A: 2 sum of a_ij^2, off the diagonal for signs, all for normals.

    The sphere's is 2 d / (d + 2) times that of A without its mean diagonal.
    """
    matrix = jr.normal(key, (6, 6)) + 3 * jnp.eye(6)
    matrix = matrix + matrix.T
    squares = lambda a: float((a**2).sum())  # noqa: E731
    mean = jnp.trace(matrix) / 6 * jnp.eye(6)
    expected = {
        "hutchinson": 2 * squares(matrix - jnp.diag(jnp.diag(matrix))),
        "hutchinson_gaussian": 2 * squares(matrix),
        "hutchinson_sphere": 2 * 6 / 8 * squares(matrix - mean),
    }
    keys = jr.split(jr.key(1), 100_000)
    drift, x = lambda x: matrix @ x, jnp.zeros(6)
    for name, variance in expected.items():
        one = partial(DIVERGENCES[name], drift, x)
        traces = jax.vmap(lambda k, one=one: one(k)[1])(keys)
        # Relative error of a variance: sqrt((kurtosis - 1) / n), of kurtosis below 15.
        assert float(traces.var()) == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("num_probes", [1, 2, 4, 8])
def test_hierarchical_probes_vary_with_elements_of_one_colour_alone(num_probes, key):
    """Of a symmetric A: 2 sum of a_ij^2 over all i != j of one colour."""
    dims = (3, 4, 2)
    matrix = jr.normal(key, (24, 24))
    matrix = matrix + matrix.T
    drift, x = lambda x: (matrix @ x.ravel()).reshape(dims), jnp.zeros(dims)
    colour = divergences.colours(dims).ravel() % num_probes
    alike = (colour[:, None] == colour[None]) & ~np.eye(24, dtype=bool)
    expected = 2 * float((np.asarray(matrix)[alike] ** 2).sum())
    one = partial(DIVERGENCES["hierarchical"], drift, x, num_probes=num_probes)
    traces = jax.jit(jax.vmap(lambda k: one(k)[1]))(jr.split(jr.key(1), 50_000))
    assert float(traces.var()) == pytest.approx(expected, rel=0.06)
    assert abs(float(traces.mean() - jnp.trace(matrix))) < 4 * np.sqrt(expected / 5e4)


@pytest.mark.parametrize(
    ("dims", "num_probes"),
    [((8,), 8), ((5,), 8), ((3, 4, 2), 64), ((2, 2, 2, 1), 8), ((), 1)],
)
def test_a_colour_for_every_position_makes_the_trace_exact(dims, num_probes, key):
    size = int(np.prod(dims))
    matrix = jr.normal(key, (size, size))
    traces = DIVERGENCES["hierarchical"](
        lambda x: (matrix @ x.reshape(size)).reshape(dims),
        jnp.ones(dims),
        jr.key(1),
        num_probes=num_probes,
    )[1]
    np.testing.assert_allclose(traces, [jnp.trace(matrix)], rtol=1e-9)


def test_four_colours_find_the_trace_of_what_sees_its_neighbours_alone(key):
    """Pixels of one colour are two apart, and a kernel of side 3 reaches one."""
    kernel, names = jr.normal(key, (3, 3, 1, 1)), ("NHWC", "HWIO", "NHWC")

    def drift(x):
        return jax.lax.conv_general_dilated(
            x[None], kernel, (1, 1), "SAME", dimension_numbers=names
        )[0]

    one = partial(DIVERGENCES["hierarchical"], drift, jnp.ones((8, 8, 1)), jr.key(1))
    exact = 64 * kernel[1, 1, 0, 0]
    np.testing.assert_allclose(one(num_probes=4)[1], [exact], rtol=1e-9)
    assert abs(float(one(num_probes=2)[1][0] - exact)) > 1e-3
    same = DIVERGENCES["hutchinson"](drift, jnp.ones((8, 8, 1)), jr.key(1))[1]
    np.testing.assert_array_equal(one()[1], same)
    with pytest.raises(ValueError, match="num_probes is 3; hierarchical probes are"):
        one(num_probes=3)


def test_hutch_plus_plus_is_exact_up_to_its_rank(key):
    left, right = jr.normal(key, (2, 3, 12))
    divergence = partial(DIVERGENCES["hutch_plus_plus"], num_probes=3)
    traces = divergence(lambda x: left.T @ (right @ x), jnp.ones(12), jr.key(1))[1]
    np.testing.assert_allclose(traces, jnp.full(3, (left * right).sum()), rtol=1e-9)


@pytest.mark.parametrize(
    "case",
    unless(
        lambda c: "gauss4" in c["id"], [c for c in CASES if c["id"].endswith("/tight")]
    ),
    ids=lambda c: c["id"],
)
def test_log_likelihood_is_that_of_a_peer(case):
    """With its probes: noise sigma_min on x, prior N(0, sigma_max^2)."""
    given = case["in"]
    x, v = (jnp.asarray(ARRAYS[given[k][1:]]) for k in ("x", "v"))
    sde = ss.EDM(t_min=given["sigma_min"], t_max=given["sigma_max"])
    oracle = problems()[case["problem"]]

    def with_their_probes(x, v):
        probed = lambda drift, x, key: divergences._probed(drift, x, v[None])  # noqa: E731
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
    unless(
        lambda c: "gauss4" in c["id"],
        [c for c in CASES if c["function"] == "kd.log_likelihood_exact"],
    ),
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


@pytest.mark.parametrize(
    "sde",
    unless(lambda sde: name_of(sde) == "VP", [ss.VP(), ss.SubVP(), ss.VE()]),
    ids=name_of,
)
@pytest.mark.parametrize(
    "problem", ["gmm2", pytest.param("gauss4", marks=pytest.mark.slow)]
)
def test_bits_per_dim_are_those_of_the_ancestor(problem, sde):
    """With its probes, at its interval from 1e-5 to 1, and with the exact trace.

    It estimates the change of log alpha with the probe too, f |v|^2 instead of f d,
    which matters where |v|^2 is not d. Ours is exact; its own is put back here.
    """
    oracle, kind = problems()[problem], type(sde).__name__.lower()
    cases = [
        c
        for c in SDE_CASES
        if c.get("problem") == problem and c["in"].get("sde") == kind
    ]
    assert cases
    x = jnp.asarray(SDE_ARRAYS[f"lik/{problem}/x"])
    num_dims = x.shape[1]

    def probes(case):
        """[batch, dims, dims]: the peer's probe over and over, or an exact basis."""
        if "probe" not in case["in"]:
            basis = np.sqrt(num_dims) * np.eye(num_dims)
            return np.tile(basis[None], (len(x), 1, 1))
        probe = SDE_ARRAYS[case["in"]["probe"][1:]]
        return np.tile(probe[:, None], (1, num_dims, 1))

    def prior(z):
        """Theirs is N(0, 1) for VP and sub-VP, whose std at 1 is 0.99998."""
        scale = sde.sigma_max if kind == "ve" else 1.0
        return jax.scipy.stats.norm.logpdf(z, scale=scale).sum(1)

    def one(x, v):
        return ss.log_prob(
            x[None],
            sde=sde,
            score=score_of(oracle, sde),
            key=jr.key(0),
            divergence=lambda drift, x, key: divergences._probed(drift, x, v),
            rtol=1e-8,
            atol=1e-8,
            prior=prior,
        )

    v = jnp.concatenate([jnp.asarray(probes(case)) for case in cases])
    out = jax.jit(jax.vmap(one))(jnp.tile(x, (len(cases), 1)), v)
    nats, latent = (a.reshape(len(cases), len(x), -1) for a in (out.nats, out.latent))
    rescaling = sde.log_alpha(sde.t_max) - sde.log_alpha(sde.t_min)
    extra = ((v[:, 0] ** 2).sum(1) - num_dims).reshape(len(cases), len(x), 1)
    nats = nats + extra * rescaling
    for i, case in enumerate(cases):
        # Data in [0, 1] have bins half as wide: 8 bits instead of 7.
        bits = ss.bits_per_dim(nats[i, :, 0], num_dims)
        bits = bits + (0.0 if case["in"]["centered"] else 1.0)
        of = "bpd_tight" if "probe" in case["in"] else "bpd_exact_trace"
        # The note of the cases: tight solvers agree to 1e-6; ours is in log sigma.
        np.testing.assert_allclose(bits, SDE_ARRAYS[case["out"][of][1:]], atol=2e-6)
        if "z" in case["out"]:
            z = SDE_ARRAYS[case["out"]["z"][1:]]
            np.testing.assert_allclose(latent[i], z, rtol=1e-5, atol=1e-6)
        else:
            mismatch = SDE_ARRAYS[case["out"]["prior_mismatch_bpd"][1:]]
            exact = SDE_ARRAYS[case["out"]["bpd_closed_form_eps"][1:]]
            np.testing.assert_allclose(bits + mismatch, exact, atol=1e-5)


@pytest.mark.slow
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


@pytest.mark.slow
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
    def score(x, t, cond=None):
        return -x

    solve = partial(ss.log_prob, jnp.ones((1, 2)), sde=ss.VP(), score=score)
    with pytest.raises(
        ValueError, match=r"unknown divergence 'trace'; choose from \['exact'"
    ):
        solve(divergence="trace")
    with pytest.raises(ValueError, match="a random divergence needs a key"):
        solve()
    # Each would give a number that is no log-density.
    for times in ([1.0, 0.5], [1e-5, 0.5]):
        with pytest.raises(ValueError, match="times must increase to t_max = 1.0"):
            solve(divergence="exact", times=times)
    with pytest.raises(ValueError, match="got 3 and 1"):
        ss.bits_per_dim(0.0, 3, num_levels=1)


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
