from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import ALL_SDES, GAUSSIAN, MIXTURE, SOME_SDES, golden, name_of, problems
from scipy import stats

import score_sde as ss
from score_sde import divergences, likelihood
from score_sde.likelihood import DIVERGENCES
from score_sde.precondition import PRECONDITIONERS

CASES, ARRAYS = golden("k_diffusion")
SDE_CASES, SDE_ARRAYS = golden("score_sde_likelihood")
sweep = pytest.mark.parametrize("sde", ALL_SDES, ids=name_of)
sweep_some = pytest.mark.parametrize("sde", SOME_SDES, ids=name_of)


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
@pytest.mark.parametrize(
    ("oracle", "dtype", "tolerance", "nats_per_dim"),
    [
        # The largest error is 3e-7 at this tolerance, and falls with it.
        (GAUSSIAN, jnp.float64, 1e-7, 1e-6),
        (MIXTURE, jnp.float64, 1e-7, 1e-6),
        (MIXTURE, jnp.float32, 1e-5, 1e-3),
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


@sweep_some
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


@sweep_some
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
