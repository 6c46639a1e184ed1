"""Likelihoods in a few jumps: their divergence, its losses, and what students learn."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import GAUSSIAN, MIXTURE, unless

import score_sde as ss
from score_sde import precondition
from score_sde.divergences import gaussian_divergence
from score_sde.few_step_likelihood import default_num_evals, rising_levels
from score_sde.flow_map import FlowMap, Reach, carry_density
from score_sde.losses import jump_divergences as losses
from score_sde.networks.blocks import ratio_waves

BATCH = 5
SDE = ss.EDM(t_min=0.002, t_max=80.0)
JUMPS = [(0.002, 80.0), (0.3, 4.0), (4.0, 0.3), (0.5, 0.5)]
ORACLES = {"gauss4": GAUSSIAN, "gmm2": MIXTURE}
both = pytest.mark.parametrize("oracle", ORACLES.values(), ids=ORACLES)
mixture_slow = pytest.mark.parametrize(
    "oracle",
    [GAUSSIAN, pytest.param(MIXTURE, marks=pytest.mark.slow)],
    ids=ORACLES,
)


def noised(oracle, sigma, batch=BATCH, seed=0):
    x0 = oracle.sample(jr.key(seed), batch)
    return x0 + sigma * jr.normal(jr.key(seed + 1), x0.shape, x0.dtype)


def student(oracle, amount=0.0, reach=None):
    """The exact map and divergence, both wrong by a multiple of smooth functions."""

    def known(x, sigma, sigma_next, cond=None):
        start, end = (
            jnp.broadcast_to(jnp.asarray(s, x.dtype), x.shape[:1])
            for s in (sigma, sigma_next)
        )
        off = jnp.sin(x / (1 + start[:, None])) * (1 - end / start)[:, None]
        target = oracle.jump(x, start, end) + amount * off
        beside = jnp.cos(x).mean(1) / (1 + start)
        return target, oracle.jump_divergence(x, start, end) + amount * beside

    def jump(x, sigma, sigma_next, cond=None):
        return known(x, sigma, sigma_next)[0]

    return FlowMap(jump, reach or Reach(way="both"), known)


def near(a, b, bound):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=bound)


# The exact divergence of a jump.


def test_the_divergence_of_a_gaussian_is_the_change_of_its_log_density():
    """The closed form is of eigenvalues, the other of log-densities at both ends."""
    start, end = (jnp.asarray(a) for a in zip(*JUMPS, strict=True))
    x = noised(GAUSSIAN, 0.3, len(JUMPS))
    by_density = jax.jit(super(type(GAUSSIAN), GAUSSIAN).jump_divergence)
    exact = GAUSSIAN.jump_divergence(x, start, end)
    near(by_density(x, start, end), exact, 1e-8)
    values = jnp.linalg.eigvalsh(GAUSSIAN.covariances[0])[None]
    gained = 0.5 * jnp.log(
        (values + end[:, None] ** 2) / (values + start[:, None] ** 2)
    )
    near(exact * jnp.log(end / start), gained.mean(1), 1e-9)


@mixture_slow
def test_exact_divergences_obey_the_identities(oracle):
    start, middle, end = (jnp.full(BATCH, s) for s in (0.3, 1.1, 4.0))
    x, exact = noised(oracle, 0.3), student(oracle)
    probes = losses.exact_probes(x)

    @jax.jit
    def errors(x):
        reached, gained = carry_density(exact, x, start, end)
        between, first = carry_density(exact, x, start, middle)
        _, second = carry_density(exact, between, middle, end)
        _, back = carry_density(exact, reached, end, start)
        drift, there = losses.flow_and_divergence(oracle.denoise, x, start, probes)
        _, rate = jax.jvp(
            lambda x, log: carry_density(exact, x, jnp.exp(log), end)[1],
            (x, jnp.log(start)),
            (drift, jnp.ones(BATCH)),
        )
        _, rate_of_end = jax.jvp(
            lambda log: carry_density(exact, x, start, jnp.exp(log))[1],
            (jnp.log(end),),
            (jnp.ones(BATCH),),
        )
        at_end = losses.flow_and_divergence(oracle.denoise, reached, end, probes)[1]
        return {
            "flow": reached - oracle.flow(x, 0.3, 4.0),
            "semigroup": first + second - gained,
            "inverse": back + gained,
            "diagonal": there - exact.with_divergence(x, start, start)[1],
            "eulerian": rate + there,
            "lagrangian": rate_of_end - at_end,
        }

    for name, error in errors(x).items():
        assert jnp.abs(error).max() < 1e-7, name


def test_the_divergence_of_a_gaussian_in_float32():
    """Near and far levels lose nothing but rounding, in both directions."""
    pairs = [(0.002, 80.0), (80.0, 0.002), (0.5, 0.5), (0.5, 0.50001), (1e-5, 1e5)]
    for pair in pairs:
        low = [jnp.asarray(s, jnp.float32) for s in pair]
        exact = gaussian_divergence(*(np.float64(s) for s in low), sigma_data=0.5)
        found = gaussian_divergence(*low, sigma_data=0.5)
        assert found.dtype == jnp.float32
        near(found, exact, 3e-7)


# The likelihood.


@mixture_slow
@pytest.mark.parametrize("count", unless((4).__eq__, [1, 4]))
def test_exact_jumps_give_the_exact_log_density(oracle, count):
    x = noised(oracle, 0.002)
    found = ss.few_step_log_prob(x, sde=SDE, jump=student(oracle), num_evals=count)
    latent = oracle.flow(x, 0.002, 80.0)
    # The prior stands in for the marginal at t_max: that much is not the jumps'.
    error = ss.prior_log_prob(latent, sde=SDE) - oracle.log_prob(latent, 80.0)
    near(found.nats - error, oracle.log_prob(x, 0.002), 1e-7)
    near(found.latent, latent, 1e-6)
    assert found.num_evals.tolist() == [count] * BATCH
    assert found.success.all()


def test_the_scale_of_an_sde_is_accounted_for():
    """By VP, whose alpha falls to 0.0066: the density is that of xt, not of x."""
    sde = ss.VP()
    low, high = (float(sde.sigma(t)) for t in (sde.t_min, sde.t_max))
    x = noised(GAUSSIAN, low)
    xt = sde.alpha(sde.t_min) * x
    found = ss.few_step_log_prob(xt, sde=sde, jump=student(GAUSSIAN), num_evals=3)
    latent = sde.alpha(sde.t_max) * GAUSSIAN.flow(x, low, high)
    near(found.latent, latent, 1e-8)
    exact = GAUSSIAN.log_prob(latent, sde.t_max, sde=sde)
    error = ss.prior_log_prob(latent, sde=sde) - exact
    near(found.nats - error, GAUSSIAN.log_prob(xt, sde.t_min, sde=sde), 1e-7)


def test_an_infinite_example_is_reported_and_spares_the_others():
    x = noised(GAUSSIAN, 0.002).at[1].set(jnp.inf)
    found = ss.few_step_log_prob(x, sde=SDE, jump=student(GAUSSIAN))
    assert found.success.tolist() == [True, False, True, True, True]
    assert jnp.isnan(found.nats[1])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"jump": GAUSSIAN.denoise}, "not learned the divergence"),
        ({"jump": FlowMap(GAUSSIAN.jump)}, "not learned the divergence"),
        ({"jump": student(GAUSSIAN, reach=Reach())}, "to lower levels alone"),
        ({"sigmas": [80.0, 1.0, 0.002]}, "sigmas must increase"),
        ({"sigmas": [0.01, 80.0]}, "sigmas must increase from 0.002 to 80"),
        ({"num_evals": 0}, "num_evals is 0; it must be 1 or more"),
        (
            {
                "jump": student(GAUSSIAN, reach=Reach((0.002, 80.0), way="up")),
                "num_evals": 2,
            },
            "at most 1",
        ),
        ({"x": jnp.ones((2, 4), jnp.int32)}, "must be floats"),
    ],
)
def test_bad_input_is_answered_before_any_jump(options, says):
    given = {"x": noised(GAUSSIAN, 0.002), "jump": student(GAUSSIAN), **options}
    with pytest.raises(ValueError, match=says):
        ss.few_step_log_prob(given.pop("x"), sde=SDE, **given)


def test_levels_are_those_that_a_student_knows():
    known = tuple(np.geomspace(0.002, 80, 9))
    few = student(GAUSSIAN, reach=Reach(known, way="up"))
    assert default_num_evals(few) == default_num_evals(student(GAUSSIAN)) == 8
    for count in (1, 2, 4, 8):
        found = rising_levels(few, SDE, count)
        np.testing.assert_allclose(found, known[:: 8 // count])
        np.testing.assert_allclose(found, rising_levels(student(GAUSSIAN), SDE, count))
    assert len(rising_levels(few, SDE, 3)) == 4


@pytest.mark.parametrize(
    ("way", "good", "bad"),
    [("down", (2.0, 1.0), (1.0, 2.0)), ("up", (1.0, 2.0), (2.0, 1.0))],
)
def test_a_model_says_which_way_it_jumps(way, good, bad):
    reach = Reach(way=way)
    assert reach.problem([good]) is None
    assert reach.problem([(1.0, 1.0)]) is None
    assert "levels alone, not" in reach.problem([good, bad])
    assert Reach(way="both").problem([good, bad]) is None


# The divergence of a network.


def test_a_network_that_says_nothing_is_a_gaussian():
    """With F = 0 and h = 0 the jump's divergence is that of sigma_data."""
    zeros = lambda x, noise, cond: jnp.zeros((*x.shape[:-1], x.shape[-1] + 1))  # noqa: E731
    made = partial(precondition.edm, sigma_data=0.7)
    jump = ss.make_jump(zeros, made, reach=Reach(way="both"), sigma_data=0.7)
    x = noised(GAUSSIAN, 0.5)
    for end in (0.5, 3.0):
        found = jump.with_divergence(x, 0.5, end)[1]
        near(found, gaussian_divergence(0.5, end, sigma_data=0.7), 1e-12)
    found = jump.with_divergence(x, 0.5, 0.5)[1]
    near(found, 1 - made(0.5).skip, 1e-12)
    alone = ss.make_jump(lambda x, noise, cond: x, made, sigma_data=0.7)
    with pytest.raises(ValueError, match="no channel of the divergence"):
        alone.with_divergence(x, 0.5, 1.0)
    assert ss.make_jump(lambda x, noise, cond: x, made).with_divergence is None


def test_jumps_up_are_told_apart_and_jumps_down_are_seen_as_before():
    """The place of a ratio rises over [0, 2]; up to 1 it is log(1 + 1000 ratio)."""
    ratios = jnp.asarray([0.0, 0.01, 0.5, 1.0, 2.0, 50.0, 4e4], jnp.float32)
    found = np.asarray(ratio_waves(ratios))
    place = np.log1p(1000 * np.float64(ratios[:4])) / np.log(1001)
    angles = np.pi * place[:, None] * np.arange(1.0, 9.0)[None]
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    near(found[:4], expected, 2e-5)
    first = np.unwrap(np.arctan2(found[:, 8], found[:, 0]))
    assert (np.diff(first) > 0).all()
    assert first[-1] < 2 * np.pi


# Losses.


def test_random_probes_are_unbiased():
    x, sigma, count = noised(GAUSSIAN, 0.3), jnp.full(BATCH, 0.3), 2000
    of_flow = jax.jit(partial(losses.flow_and_divergence, GAUSSIAN.denoise))
    drift, exact = of_flow(x, sigma, losses.exact_probes(x))
    near(drift, x - GAUSSIAN.denoise(x, 0.3), 1e-12)
    probes = losses.random_probes(jr.key(0), x, count)
    # A probe of four dimensions is off by what is off the diagonal of J, below 1.
    near(of_flow(x, sigma, probes)[1], exact, 4 / np.sqrt(count))
    near(losses.random_probes(jr.key(0), x[:2], count), probes[:, :2], 0)


@pytest.mark.slow
def test_the_stored_flow_is_of_fourth_order():
    x = noised(GAUSSIAN, 0.3)
    start, end = jnp.full(BATCH, 0.3), jnp.full(BATCH, 4.0)
    exact = carry_density(student(GAUSSIAN), x, start, end)
    errors = []
    for steps in (6, 12):
        found = losses.follow_density(
            *(GAUSSIAN.denoise, x, start, end, losses.exact_probes(x)),
            sigma_data=0.7,
            num_steps=steps,
        )
        pairs = zip(found, exact, strict=True)
        errors.append([float(jnp.abs(a - b).max()) for a, b in pairs])
    assert (np.log2(np.divide(*errors)) > 3.6).all(), errors
    assert max(errors[1]) < 1e-4


@pytest.mark.parametrize(
    "ends", [(0.3, 0.9, 2.0), pytest.param((2.0, 0.9, 0.3), marks=pytest.mark.slow)]
)
@pytest.mark.slow
@mixture_slow
def test_losses_have_their_minimum_at_the_exact_jump(oracle, ends):
    """Gradient 0 there, and above 0 beside it, with exact divergences, up and down."""
    sigma, middle, end = (jnp.full(BATCH, s) for s in ends)
    x, teacher = noised(oracle, ends[0]), oracle.denoise
    probes = losses.exact_probes(x)
    reached, gained = carry_density(student(oracle), x, sigma, end)

    def means(amount):
        jump = student(oracle, amount)
        of_teacher = {"probes": probes, "teacher": teacher}
        found = {
            "diagonal": losses.diagonal_divergence_loss(jump, x, sigma, **of_teacher),
            "lagrangian": losses.lagrangian_divergence_loss(
                jump, x, sigma, end, **of_teacher
            ),
            "its own": losses.lagrangian_divergence_loss(jump, x, sigma, end, probes),
            "eulerian": losses.eulerian_divergence_loss(
                jump, x, sigma, end, **of_teacher
            ),
            "semigroup": losses.semigroup_divergence_loss(
                jump, jump, x, sigma, middle, end
            ),
        }
        stored = losses.stored_losses(jump, x, reached, gained, sigma, end)
        found |= dict(zip(("stored jump", "stored divergence"), stored, strict=True))
        assert all(loss.shape == (BATCH,) for loss in found.values())
        return {name: loss.mean() for name, loss in found.items()}

    both = jax.jit(lambda amount: (means(amount), jax.jacfwd(means)(amount)))
    for name, value, slope in named(both(jnp.zeros(()))):
        assert value < 1e-10, name
        assert abs(slope) < 1e-6, name
    for name, value, slope in named(both(jnp.full((), 0.3))):
        assert value > 1e-6, name
        assert abs(slope) > 1e-5, name


def named(found):
    values, slopes = found
    return [(name, values[name], slopes[name]) for name in values]


@pytest.mark.slow
def test_the_mean_gradient_with_random_probes_vanishes():
    """Single probes are no minimum of the loss, but of its mean."""
    count, oracle = 4000, GAUSSIAN
    sigma, end = jnp.full(count, 0.3), jnp.full(count, 2.0)
    x = noised(oracle, 0.3, count)
    probes = losses.random_probes(jr.key(3), x)

    def loss(amount):
        return losses.lagrangian_divergence_loss(
            student(oracle, amount), x, sigma, end, probes, teacher=oracle.denoise
        ).reshape(40, -1)

    each = jax.jit(jax.jacfwd(lambda a: loss(a).mean(1)))(jnp.zeros(()))
    assert abs(float(each.mean())) < 4 * float(each.std()) / np.sqrt(40)
