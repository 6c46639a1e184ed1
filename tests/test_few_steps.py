"""Flow maps: the identities of the exact ones, and losses whose minimum they are."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import GAUSSIAN, MIXTURE

import score_sde as ss
from score_sde import flow_map, oracles, precondition
from score_sde.flow_map import TO_ZERO, FlowMap, Reach, as_denoiser, carry
from score_sde.losses import DISTANCES, consistency, flow_maps, pairs, trigflow
from score_sde.losses.distances import squared
from score_sde.samplers import SAMPLERS

ORACLES = {"gauss4": GAUSSIAN, "gmm2": MIXTURE}
BATCH = 6
JUMPS = [(80.0, 2.0), (2.0, 0.5), (0.5, 0.01), (3.0, 0.0)]

mixture_slow = pytest.mark.parametrize(
    "oracle",
    [GAUSSIAN, pytest.param(MIXTURE, marks=pytest.mark.slow)],
    ids=ORACLES,
)
both = pytest.mark.parametrize("oracle", ORACLES.values(), ids=ORACLES)
jumps = pytest.mark.parametrize(("sigma", "lower"), JUMPS)


def noised(oracle, sigma, batch=BATCH, seed=0):
    """Points of the oracle's law at a level, and the data and noise behind them."""
    x0 = oracle.sample(jr.key(seed), batch)
    eps = jr.normal(jr.key(seed + 1), x0.shape, x0.dtype)
    return x0 + sigma * eps, x0, eps


def levels(*sigmas):
    return tuple(jnp.full(BATCH, s) for s in sigmas)


def near(a, b, bound):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=bound)


# The exact maps.


@mixture_slow
@jumps
def test_exact_maps_obey_the_identities(oracle, sigma, lower):
    x, _, _ = noised(oracle, sigma)
    middle = 0.5 * (sigma + lower)
    at = jnp.full(BATCH, sigma)
    scale = sigma + 1

    def end(x, sigma, lower):
        return carry(oracle.jump, x, sigma, lower)

    near(carry(oracle.jump, x, sigma, sigma), x, 0)
    near(oracle.jump(x, sigma, sigma), oracle.denoise(x, sigma), 1e-9 * scale)
    near(end(end(x, sigma, middle), middle, lower), end(x, sigma, lower), 1e-8 * scale)
    velocity = (x - oracle.denoise(x, sigma)) / sigma
    _, eulerian = jax.jvp(
        lambda x, s: end(x, s, lower), (x, at), (velocity, jnp.ones(BATCH))
    )
    near(eulerian, 0, 1e-8)
    if lower:
        reached, lagrangian = jax.jvp(
            lambda s: end(x, sigma, s), (jnp.full(BATCH, lower),), (jnp.ones(BATCH),)
        )
        slope = (reached - oracle.denoise(reached, lower)) / lower
        near(lagrangian, slope, 1e-7)


@mixture_slow
def test_flows_go_up_and_down(oracle):
    x, _, _ = noised(oracle, 0.3)
    near(oracle.flow(oracle.flow(x, 0.3, 4.0), 4.0, 0.3), x, 1e-9)
    each = jnp.linspace(0.1, 2.0, BATCH)
    together = oracle.flow(x, 0.3, each)
    for i, level in enumerate(each):
        near(together[i : i + 1], oracle.flow(x[i : i + 1], 0.3, level), 1e-10)


def test_flow_of_a_mixture_of_one_component_is_the_gaussian_one():
    alone = oracles.GaussianMixture(
        GAUSSIAN.means, GAUSSIAN.covariances, GAUSSIAN.weights
    )
    x, _, _ = noised(GAUSSIAN, 5.0)
    near(alone.flow(x, 5.0, 0.0), GAUSSIAN.flow(x, 5.0, 0.0), 1e-9)


# Samplers.


@pytest.mark.parametrize("count", [1, 2, 7])
def test_jump_of_a_plain_denoiser_is_ddim(count):
    x, _, _ = noised(MIXTURE, 80.0)
    sigmas = ss.grids.levels(*np.geomspace(80, 0.5, count))
    ddim = ss.sample("ddim", MIXTURE.denoise, x, sigmas)
    jumped = ss.sample("jump", MIXTURE.denoise, x, sigmas, return_path=True)
    near(jumped.x, ddim.x, 1e-12 * 80)
    assert int(jumped.num_evals) == count
    assert jumped.path.shape == (count + 1, *x.shape)


@both
def test_jump_of_the_exact_map_ends_where_the_flow_does(oracle):
    x, _, _ = noised(oracle, 80.0)
    for given in ((80.0,), (80.0, 0.8), (80.0, 14.0, 2.5, 0.4)):
        out = ss.sample("jump", oracle.jump, x, ss.grids.levels(*given))
        near(out.x, oracle.flow(x, 80.0, 0.0), 1e-7)


@pytest.mark.parametrize("given", [(80.0,), (80.0, 0.8), (80.0, 5.0, 0.8, 0.2)])
def test_consistency_on_the_exact_map_has_the_exact_law(given):
    """Mean and covariance of 50,000 samples are within four standard errors."""
    count = 50_000
    # Started from the law of noised data, so that nothing but the sampler can be off.
    x, _, _ = noised(GAUSSIAN, 80.0, batch=count)
    out = ss.sample(
        "consistency", GAUSSIAN.jump, x, ss.grids.levels(*given), key=jr.key(7)
    )
    found = np.cov(np.asarray(out.x).T)
    wanted = np.asarray(GAUSSIAN.covariance())
    spread = np.sqrt(np.diag(wanted) / count)
    assert (np.abs(np.asarray(out.x.mean(0) - GAUSSIAN.mean())) < 4 * spread).all()
    sides = np.sqrt(np.diag(wanted))
    error = np.sqrt((wanted**2 + np.outer(sides, sides) ** 2) / count)
    assert (np.abs(found - wanted) < 4 * error).all()


def test_other_samplers_take_the_diagonal_of_a_jump():
    x, _, _ = noised(GAUSSIAN, 80.0)
    sigmas = ss.grids.karras(6, sigma_min=0.02, sigma_max=80.0)
    ours = ss.sample("dpmpp_2m", FlowMap(GAUSSIAN.jump), x, sigmas).x
    near(ours, ss.sample("dpmpp_2m", GAUSSIAN.denoise, x, sigmas).x, 1e-10)


def test_levels_of_a_grid_are_checked():
    assert ss.grids.levels(80.0, 0.8).tolist() == [80.0, 0.8, 0.0]
    for wrong in ((), (0.8, 80.0), (80.0, 0.0), (80.0, -1.0), (np.inf,), (1.0, 1.0)):
        with pytest.raises(ValueError, match="level"):
            ss.grids.levels(*wrong)


# Models that were made for some jumps.


@pytest.mark.parametrize(
    ("reach", "good", "bad"),
    [
        (TO_ZERO, (80.0,), (80.0, 0.8)),
        (Reach((80.0, 5.0, 0.0)), (80.0,), (80.0, 4.0)),
        (Reach((80.0, 5.0, 0.0), "next"), (80.0, 5.0), (80.0,)),
    ],
)
def test_students_refuse_what_they_were_not_made_for(reach, good, bad):
    student = FlowMap(GAUSSIAN.jump, reach)
    x, _, _ = noised(GAUSSIAN, 80.0)
    ss.sample("jump", student, x, ss.grids.levels(*good))
    with pytest.raises(ValueError, match="can't take these steps"):
        ss.sample("jump", student, x, ss.grids.levels(*bad))
    for sampler in ("heun", "dpmpp_2m"):
        with pytest.raises(ValueError, match="no denoiser"):
            ss.sample(sampler, student, x, ss.grids.levels(*good))
    with pytest.raises(ValueError, match="no denoiser"):
        as_denoiser(student)
    with pytest.raises(ValueError, match="two levels"):
        student(x, 80.0, None)


def test_a_consistency_student_is_sampled_at_any_levels():
    x, _, _ = noised(GAUSSIAN, 80.0)
    student = FlowMap(GAUSSIAN.jump, TO_ZERO)
    sigmas = ss.grids.levels(80.0, 3.0, 0.4)
    out = ss.sample("consistency", student, x, sigmas, key=jr.key(0))
    assert jnp.isfinite(out.x).all()
    assert int(out.num_evals) == 3


# `make_jump`.


@pytest.mark.parametrize("kind", ["edm", "vp", "velocity", "x0"])
def test_a_network_that_ignores_the_second_level_makes_the_denoiser(kind):
    def network(x, noise, cond):
        return jnp.tanh(x) * (1 + noise[:, None])

    made = precondition.PRECONDITIONERS[kind]
    jump, denoise = ss.make_jump(network, made), ss.make_denoiser(network, made)
    x, _, _ = noised(GAUSSIAN, 2.0)
    for lower in (0.0, 1.0, 2.0):
        near(jump(x, 2.0, lower), denoise(x, 2.0), 0)
    near(as_denoiser(jump)(x, 2.0), denoise(x, 2.0), 0)


def test_a_network_of_two_levels_is_told_their_ratio():
    seen = []

    def network(x, noise, ratio, cond):
        seen.append(np.asarray(ratio))
        return x * ratio[:, None]

    jump = ss.make_jump(network, precondition.edm)
    x, _, _ = noised(GAUSSIAN, 2.0)
    for sigma, lower in ((2.0, 0.5), (2.0, 2.0), (0.0, 0.0), (2.0, 0.0)):
        jump(x, sigma, lower)
    assert [float(r[0]) for r in seen] == [0.25, 1.0, 1.0, 0.0]
    assert all(r.shape == (BATCH,) for r in seen)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_types_of_jumps(dtype):
    jump = ss.make_jump(lambda x, noise, cond: x, precondition.edm)
    x = jnp.ones((3, 2), dtype)
    assert jump(x, 2.0, 0.5).dtype == dtype
    assert carry(jump, x, 2.0, 0.5).dtype == dtype
    for name in ("jump", "consistency"):
        out = ss.sample(name, jump, x, ss.grids.levels(2.0, 0.5), key=jr.key(0))
        assert out.x.dtype == dtype
        assert jnp.isfinite(out.x).all()


@pytest.mark.parametrize("shape", [(0, 2), (1, 1), (2, 3, 4), (2, 2, 2, 1)])
def test_shapes_of_jumps(shape):
    jump = ss.make_jump(lambda x, noise, cond: x, precondition.edm)
    assert carry(jump, jnp.ones(shape), 2.0, 0.5).shape == shape


# Losses at the exact map.


def gradient_size(loss, wrong):
    """Derivative of the mean loss by how wrong a map is, at a right one."""
    return abs(float(jax.grad(lambda a: loss(wrong(a)).mean())(jnp.zeros(()))))


def tilted(oracle):
    """The exact jump, wrong by a multiple of a field that vanishes on the diagonal."""

    def wrong(amount):
        def jump(x, sigma, lower, cond=None):
            sigma, lower = (
                jnp.broadcast_to(jnp.asarray(s, x.dtype), x.shape[:1])
                for s in (sigma, lower)
            )
            share = (1 - lower / sigma)[:, None]
            return oracle.jump(x, sigma, lower) + amount * share * jnp.sin(
                x / (1 + sigma[:, None])
            )

        return FlowMap(jump)

    return wrong


def step_of(oracle, x, sigma, lower):
    return oracle.flow(x, sigma, lower)


@pytest.mark.slow
@mixture_slow
def test_losses_have_their_minimum_at_the_exact_map(oracle):
    """Gradient 0 there, up to rounding, and above 0 beside it."""
    scale = 0.5
    t, middle, r = (jnp.arctan(s / scale) for s in levels(2.0, 0.9, 0.3))
    x, x0, eps = noised(oracle, 2.0)
    y = jnp.cos(t)[:, None] * x
    slope = flow_maps.circle_velocity(oracle.denoise, y, t, scale)
    line_t, line_r = levels(2 / 3, 0.2)
    z = (1 - line_t)[:, None] * x
    velocity = flow_maps.average_velocity(oracle.jump)(z, line_t, line_t)
    high, half, low = levels(2.0, 0.9, 0.3)

    def progressive(jump):
        target = flow_maps.progressive_target(
            lambda x, s, l: step_of(oracle, x, s, l), x, high, half, low
        )
        return squared(jump(x, high, low), target)

    found = {
        "progressive": progressive,
        "lagrangian": lambda j: flow_maps.lagrangian_loss(
            j, y, t, r, sigma_data=scale, teacher=oracle.denoise
        ),
        "eulerian": lambda j: flow_maps.eulerian_loss(
            j, y, t, r, slope, sigma_data=scale
        ),
        "semigroup": lambda j: flow_maps.semigroup_loss(
            j, j, y, t, middle, r, sigma_data=scale
        ),
        "mean flow": lambda j: flow_maps.mean_flow_loss(j, z, velocity, line_t, line_r),
        "half steps": lambda j: squared(
            flow_maps.average_velocity(j)(z, line_t, line_r),
            flow_maps.half_steps_target(j, z, line_t, line_r),
        ),
        "continuous": lambda j: trigflow.continuous_consistency_loss(
            j, y, slope, t, sigma_data=scale
        ),
    }
    wrong = tilted(oracle)
    for name, loss in found.items():
        at_exact = float(loss(wrong(0.0)).mean())
        beside = float(loss(wrong(0.3)).mean())
        assert gradient_size(loss, wrong) < 1e-6, name
        if name != "continuous":  # its value says little, see its normalisation
            assert at_exact < 1e-10, name
        assert beside > 1e-6, name
        assert gradient_size(loss, lambda a, w=wrong: w(a + 0.3)) > 1e-4, name


@both
def test_consistency_of_an_exact_teacher_step_is_at_its_minimum(oracle):
    """With x_r on the exact path both jumps end at one point."""
    x, x0, eps = noised(oracle, 2.0)
    high, low = levels(2.0, 0.9)
    end = oracle.jump(x, high, jnp.zeros(BATCH))
    there = oracle.jump(oracle.flow(x, high, low), low, jnp.zeros(BATCH))
    near(end, there, 1e-9)


@pytest.mark.slow
@both
def test_consistency_training_nears_distillation(oracle):
    """Heun's step of the teacher has a third-order error in the gap of the levels."""
    x, x0, eps = noised(oracle, 2.0)
    errors = []
    for gap in (0.4, 0.2, 0.1):
        high, low = levels(2.0, 2.0 - gap)
        reached = consistency.heun_step(oracle.denoise, x, high, low)
        errors.append(float(jnp.abs(reached - oracle.flow(x, high, low)).max()))
    orders = np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:]))
    assert (orders > 2.6).all(), errors


@pytest.mark.slow
def test_mean_gradient_of_training_from_data_vanishes():
    """With velocities of single samples the loss is not 0, but its gradient's mean is.

    The network's own velocity carries the derivative: along that of a single sample the
    target would be a product of two noises.
    """
    oracle, count = GAUSSIAN, 10_000
    x0 = oracle.sample(jr.key(3), count)
    eps = jr.normal(jr.key(4), x0.shape, x0.dtype)
    z = 0.4 * x0 + 0.6 * eps

    def loss(amount):
        jump = tilted(oracle)(amount)
        t, r = jnp.full(count, 0.6), jnp.full(count, 0.2)
        return flow_maps.mean_flow_loss(
            jump, z, eps - x0, t, r, power=0.0, own_tangent=True
        ).reshape(50, -1)

    each = jax.jacfwd(lambda a: loss(a).mean(1))(jnp.zeros(()))
    mean, error = float(each.mean()), float(each.std() / np.sqrt(len(each)))
    assert abs(mean) < 4 * error


@pytest.mark.parametrize("name", DISTANCES)
def test_distances(name):
    distance = DISTANCES[name]
    x, y = jr.normal(jr.key(0), (2, BATCH, 3, 2))
    assert distance(x, y).shape == (BATCH,)
    near(distance(x, x), 0, 0)
    near(distance(x, y), distance(y, x), 1e-12)
    assert (distance(x, y) > 0).all()
    assert jnp.isfinite(jax.grad(lambda x: distance(x, y).sum())(y)).all()


def test_pseudo_huber_lies_between_its_limits():
    x, y = jr.normal(jr.key(0), (2, BATCH, 12))
    norm = jnp.sqrt(((x - y) ** 2).sum(1))
    huber = DISTANCES["pseudo_huber"]
    near(huber(x, y, c=0.0), norm, 1e-12)
    near(huber(x, y, c=1e4) * 2e4, norm**2, 1e-3)


# Curricula.


@pytest.mark.slow
def test_pairs_are_drawn_by_their_probabilities():
    ladder, count, draws = pairs.Ladder(), 11, 200_000
    high, low = pairs.draw_log_normal_pair(
        jr.key(0), draws, ladder, count, mean=-1.1, std=2.0
    )
    wanted = pairs.log_normal_probabilities(ladder, count, mean=-1.1, std=2.0)
    known = ladder.level(jnp.linspace(0, 1, count))
    index = jnp.abs(high[:, None] - known[None, :-1]).argmin(1)
    found = np.bincount(np.asarray(index), minlength=count - 1) / draws
    error = np.sqrt(np.asarray(wanted) / draws)
    assert (np.abs(found - np.asarray(wanted)) < 5 * error + 1e-9).all()
    near(low, known[index + 1], 1e-9)


def test_pairs_of_equal_probability_are_neighbours():
    ladder = pairs.Ladder(0.01, 20.0)
    high, low = pairs.draw_uniform_pair(jr.key(0), 5000, ladder, jnp.asarray(5.0))
    found = sorted(
        {
            (round(float(a), 6), round(float(b), 6))
            for a, b in zip(high, low, strict=True)
        }
    )
    known = [round(float(s), 6) for s in ladder.level(jnp.linspace(0, 1, 5))]
    assert found == sorted(zip(known[:-1], known[1:], strict=True))


def test_curricula_grow_and_halve():
    steps = jnp.arange(0, 600, 7)
    for rule, least in ((pairs.growing_levels, 10), (pairs.doubling_levels, 11)):
        levels_at = partial(rule, num_steps=600, first=10, last=160)
        found = np.asarray(jax.vmap(levels_at)(steps))
        assert found[0] == least
        assert (np.diff(found) >= 0).all()
        assert found[-1] in (160, 161)
    halved = [int(pairs.halving_steps(k, 600, first=16)) for k in range(0, 600, 50)]
    assert halved == sorted(halved, reverse=True)
    assert set(halved) == {16, 8, 4, 2, 1}


def test_gaps_shrink_with_the_stage():
    sigma = jnp.geomspace(0.01, 80, 9)
    below = partial(pairs.shrinking_gap, sigma, factor=2.0, steepness=8.0)
    gaps = [sigma - below(n) for n in range(6)]
    for before, after in zip(gaps[:-1], gaps[1:], strict=True):
        assert (after <= before).all()
    assert float(below(0)[0]) == 0


def test_is_jump_reads_the_signature():
    def by_name(x, sigma, sigma_next):
        return x

    def denoise(x, sigma, cond=None):
        return x

    assert flow_map.is_jump(by_name)
    assert flow_map.is_jump(GAUSSIAN.jump)
    assert not flow_map.is_jump(denoise)
    assert not flow_map.is_jump(GAUSSIAN.denoise)
    assert {"jump", "consistency"} <= set(SAMPLERS)
