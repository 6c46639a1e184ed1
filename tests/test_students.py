"""Objectives of few-step models: their losses, their start, and what they learn."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from cases import GAUSSIAN, MIXTURE, unless

import score_sde as ss
from score_sde import noise_levels, precondition
from score_sde.flow_map import carry
from score_sde.guidance import classifier_free
from score_sde.losses import WEIGHTS
from score_sde.networks import NETWORKS, from_linen
from score_sde.run.build import asked_of_jumps
from score_sde.run.model import Model, denoiser, init_params, jump
from score_sde.run.objective import Batch, Context
from score_sde.run.objectives import OBJECTIVES
from score_sde.run.sections import SECTIONS
from score_sde.run.students import started
from score_sde.types import UserError

REGISTERED = SECTIONS["objective"].registry
STUDENTS = [n for n, made in REGISTERED.items() if getattr(made, "trains_jumps", False)]
SIGMA_DATA, BATCH = 0.5, 8
SDE = ss.EDM(t_min=0.002, t_max=80.0)
LEVELS = (80.0, 5.0, 1.0, 0.2)
OPTIONS = {
    "progressive": {"weight": WEIGHTS["edm"], "levels": LEVELS},
    "direct": {"levels": LEVELS, "num_trajectories": 64, "teacher_steps": 3},
    "continuous_consistency": {"warm_up_steps": 2},
}
SHARED = {
    "sde": SDE,
    "sigma_data": SIGMA_DATA,
    "noise_levels": noise_levels.LogNormal(mean=-0.8, std=1.6),
}


def made(name, **options):
    """The objective of this name, given what a config's other sections would give."""
    from score_sde.fields import fields_of

    own = {**OPTIONS.get(name, {}), **options}
    wanted = fields_of(OBJECTIVES[name])
    return OBJECTIVES[name](**{k: v for k, v in SHARED.items() if k in wanted} | own)


def single(oracle):
    """The oracle in float32, as networks are."""
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), oracle)


def model_of(objective, dims, width=16, depth=2, module=None):
    cond = asked_of_jumps(objective) or None
    module = module or NETWORKS["mlp"](width=width, depth=depth)
    network = from_linen(module, (dims,), cond)
    return Model(
        shape=(dims,),
        num_levels=None,
        num_labels=0,
        shown_levels=None,
        sigma_data=SIGMA_DATA,
        points="uniform",
        sde=SDE,
        network=network,
        predicts_variance=False,
        precondition=partial(precondition.edm, sigma_data=SIGMA_DATA),
        conditions=(),
        chain=np.ones(1),
        two_levels=objective.two_levels,
        learns_divergence=objective.learns_divergence,
        reach=objective.reach,
    )


def prepared(objective, model, oracle):
    """The parameters, and a context whose teacher is the oracle."""
    params = init_params(model, 0, extra=lambda key: objective.init(key, model))
    start = Context(
        model,
        jnp.zeros((), jnp.int32),
        params,
        {"teacher": oracle.denoise},
        None,
        target=params,
        num_steps=100,
    )
    kept = objective.prepare(start, lambda index: None, 0)
    return params, start._replace(prepared=kept)


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENTS)
def test_losses_are_of_each_example_alone(name):
    """Finite, with a gradient, and the same in a larger batch."""
    objective = made(name)
    model = model_of(objective, 2)
    oracle = single(MIXTURE)
    params, context = prepared(objective, model, oracle)
    x0 = oracle.sample(jr.key(1), BATCH)

    def loss(params, x0, step=0):
        now = context._replace(step=jnp.asarray(step, jnp.int32))
        return objective(jr.key(2), params, Batch(x0, None, {}), now)

    found = jax.jit(loss)(params, x0)
    assert found.shape == (BATCH,)
    np.testing.assert_allclose(jax.jit(loss)(params, x0[:3]), found[:3], rtol=1e-6)
    for step in (0, 60):
        slope = jax.jit(jax.grad(lambda p, s=step: loss(p, x0, s).mean()))(params)
        assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(slope))
        assert float(optax.tree.norm(slope["network"])) > 0


@pytest.mark.parametrize(
    "name",
    unless(
        "mlp".__eq__,
        ["mlp", "unet", "song_unet", "text_unet", "ddpm", "adm", "edm2", "dit"],
    ),
)
def test_a_network_told_two_levels_starts_as_its_teacher(name):
    """G(x, sigma, s) is D(x, sigma) to the bit, whatever s is, and h is 0."""
    small = {"channels": 8, "multipliers": (1, 2), "blocks_per_level": 1}
    options = {
        "mlp": {"width": 8, "depth": 1},
        "dit": {"hidden_size": 8, "depth": 1, "num_heads": 2},
        "adm": {**small, "channels_per_head": 8},
        "edm2": {**small, "channels_per_head": 8},
    }.get(name, small)
    shape = (4, 4, 1)
    zero = jnp.zeros(1, jnp.float32)
    cond = {"ratio": zero, "guidance": zero, "divergence": None}
    told = {}
    if name == "text_unet":
        options["num_words"] = 3
        told = {"words": jnp.zeros((1, 2), jnp.int32)}
    module = NETWORKS[name](**options)
    plain = from_linen(module, shape, told or None)
    both = from_linen(module, shape, {**told, **cond})
    teacher = jax.tree.map(
        lambda a: a + 0.1 * jr.normal(jr.key(a.size), a.shape, a.dtype),
        plain.init(jr.key(0)),
    )
    params = started(both.init(jr.key(1)), teacher)
    x = jr.normal(jr.key(2), (3, *shape), jnp.float32)
    noise = jnp.linspace(-1, 1, 3, dtype=jnp.float32)
    told = jax.tree.map(lambda a: jnp.repeat(a, 3, axis=0), told)
    expected = plain.apply(teacher, x, noise, told or None)
    for ratio in (0.0, 0.3, 1.0):
        full = jnp.full(3, ratio, jnp.float32)
        more = {"ratio": full, "guidance": 5 * full}
        found = both.apply(params, x, noise, {**told, **more})
        np.testing.assert_array_equal(found, expected)
    found = both.apply(params, x, noise, {**told, **cond, **more})
    np.testing.assert_array_equal(found[..., :-1], expected)
    np.testing.assert_array_equal(found[..., -1], 0)

    @jax.jit
    @jax.grad
    def gradient(params):
        return both.apply(params, x, noise, {**told, **cond, **more})[..., -1].sum()

    slopes = jax.tree_util.tree_leaves_with_path(gradient(params))
    of_head = [abs(a).max() for path, a in slopes if "divergence" in str(path)]
    assert max(of_head) > 0


def test_a_teacher_is_guided_by_the_weight_that_its_student_is_told():
    """Each example by its own; without a weight of its own it is not guided."""

    def told(x, sigma, cond=None):
        label = cond["label"].astype(x.dtype)[:, None]
        return jnp.tanh(x + 0.3 * label) / (1 + sigma)

    objective = made("direct")
    teacher = objective._guided(told)
    x = jr.normal(jr.key(0), (3, 2), jnp.float32)
    label, sigma = jnp.asarray([2, 0, 1]), jnp.float32(0.5)
    weights = jnp.asarray([1.0, 2.5, 4.0], jnp.float32)
    found = teacher(x, sigma, {"label": label, "guidance": weights})
    for i, weight in enumerate(weights):
        guided = classifier_free(told, float(weight))
        expected = guided(x[i : i + 1], sigma, {"label": label[i : i + 1]})
        np.testing.assert_allclose(found[i], expected[0], rtol=1e-6)
    np.testing.assert_array_equal(
        teacher(x, sigma, {"label": label}), told(x, sigma, {"label": label})
    )


@pytest.mark.slow
def test_a_student_that_is_told_the_weight_learns_a_range_of_them():
    """The mean of a guided Gaussian's denoiser, at weights that it was told."""
    shift = 2.0

    def denoise(x, sigma, cond=None):
        label = (cond["label"] > 0).astype(x.dtype)[:, None]
        return 0.2 * x + shift * label

    network = from_linen(
        NETWORKS["mlp"](width=32, depth=2, num_classes=3),
        (1,),
        {"label": jnp.zeros(1, int), "guidance": jnp.zeros(1, jnp.float32)},
    )
    teacher = made("direct")._guided(denoise)
    optimizer = optax.adam(3e-3)

    def loss(params, key):
        keys = jr.split(key, 3)
        x = jr.normal(keys[0], (256, 1), jnp.float32)
        told = {
            "label": jr.randint(keys[1], (256,), 0, 2),
            "guidance": jr.uniform(keys[2], (256,), jnp.float32, 1.0, 5.0),
        }
        aim = teacher(x, jnp.float32(1.0), told)
        found = network.apply(params, x, jnp.zeros(256, jnp.float32), told)
        return ((found - aim) ** 2).mean()

    @jax.jit
    def step(carried, key):
        params, state = carried
        slope = jax.grad(loss)(params, key)
        change, state = optimizer.update(slope, state)
        return (optax.apply_updates(params, change), state), None

    params = network.init(jr.key(0))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        start = (params, optimizer.init(params))
        (params, _), _ = jax.lax.scan(step, start, jr.split(jr.key(1), 3_000))
    for weight in (1.0, 2.2, 4.7):
        told = {
            "label": jnp.ones(1, int),
            "guidance": jnp.full(1, weight, jnp.float32),
        }
        found = network.apply(
            params, jnp.zeros((1, 1), "float32"), told["guidance"] * 0, told
        )
        # D_n + w (D_c - D_n) of label 1 beside -1, whose denoiser has no shift.
        assert float(found[0, 0]) == pytest.approx(weight * shift, abs=0.15)


def test_a_student_of_another_network_is_refused():
    small, large = (
        from_linen(NETWORKS["mlp"](width=w, depth=1), (2,)).init(jr.key(0))
        for w in (8, 16)
    )
    with pytest.raises(UserError, match="needs the teacher's network: parameter"):
        started(large, small)
    deeper = from_linen(NETWORKS["mlp"](width=8, depth=2), (2,)).init(jr.key(0))
    with pytest.raises(UserError, match="needs the teacher's network"):
        started(small, deeper)


def test_pairs_are_weighted_by_their_gap_or_as_a_denoiser_is():
    sigma, lower = jnp.asarray([0.5, 2.0]), jnp.asarray([0.25, 1.0])
    weights = [
        made("consistency_tuning", pair_weight=name).weight_of_pair(sigma, lower)
        for name in ("inverse_gap", "edm")
    ]
    np.testing.assert_allclose(weights[0], [4.0, 1.0])
    np.testing.assert_allclose(weights[1], [0.5 / 0.0625, 4.25 / 1.0])


def test_mean_flow_learns_the_jump_that_one_step_takes():
    """From above 0.9 to below 0.05 of the straight line, for one example of 70."""
    objective = made("mean_flow")
    t, r = objective._times(jr.key(0), jr.key(1), jnp.zeros((4096, 1)))
    assert float((r <= t).mean()) == 1
    assert float(((t > 0.9) & (r < 0.05)).mean()) > 0.015
    assert float((t == r).mean()) == pytest.approx(objective.share_equal, abs=0.03)


def test_the_target_of_progressive_distillation_changes_with_the_stage():
    objective = made("progressive")
    decay = objective.target_decay(90)
    found = [float(decay(jnp.asarray(k))) for k in range(1, 91)]
    assert [k for k, value in enumerate(found, 1) if value == 0] == [30, 60]
    assert objective.reach().levels == (80.0, 0.0)
    halfway = made("progressive", last=2)
    assert halfway.reach().levels == (80.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"levels": (1.0, 2.0)}, "levels that decrease"),
        ({"levels": (3.0, 2.0, 1.0)}, "power of two"),
        ({"levels": (3.0, 2.0), "last": 4}, "power of two"),
    ],
)
def test_wrong_levels_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        made("progressive", **options)


# What is learned: the error to the exact map, against Euler's steps of the teacher.

METHODS = {
    "progressive": ({}, 1),
    "direct": ({"num_trajectories": 4000, "teacher_steps": 12}, 1),
    "direct in two steps": ({"num_trajectories": 4000, "teacher_steps": 12}, 2),
    "consistency": ({}, 1),
    "continuous_consistency": ({"warm_up_steps": 500}, 1),
    "mean_flow": ({"own_tangent": True}, 1),
    "shortcut": ({}, 1),
    "flow_map": ({"method": "lagrangian"}, 1),
    "flow_map eulerian": ({"method": "eulerian"}, 1),
    "flow_map semigroup": ({"method": "semigroup"}, 1),
}


def trained(objective, model, oracle, steps, rate=2e-3, batch=256, last=0.02):
    """A student from scratch, after so many steps of Adam."""
    params, context = prepared(objective, model, oracle)
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps, last))
    decay = objective.target_decay(steps)
    context = context._replace(num_steps=steps)

    def step(carried, number):
        params, target, state = carried
        key_data, key_loss = jr.split(jr.fold_in(jr.key(5), number))
        x0 = oracle.sample(key_data, batch).astype(jnp.float32)
        now = context._replace(step=number, target=target, average=params)
        slope = jax.grad(
            lambda p: objective(key_loss, p, Batch(x0, None, {}), now).mean()
        )(params)
        updates, state = optimizer.update(slope, state, params)
        params = optax.apply_updates(params, updates)
        if decay is not None:
            kept = decay(number + 1).astype(jnp.float32)
            target = optax.incremental_update(params, target, 1 - kept)
        return (params, target, state), None

    numbers = jnp.arange(steps, dtype=jnp.int32)
    run = jax.jit(lambda carried: jax.lax.scan(step, carried, numbers)[0])
    with jax.numpy_dtype_promotion("standard"):  # optax mixes its counters with floats
        return run((params, params, optimizer.init(params)))[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("oracle", [GAUSSIAN, MIXTURE], ids=["gauss4", "gmm2"])
def test_students_come_near_the_exact_map(oracle, method):
    """Their error is at most a third of that of as many Euler steps of the teacher."""
    options, count = METHODS[method]
    oracle = single(oracle)
    objective = made(method.split()[0], start_from="scratch", **options)
    dims = oracle.means.shape[1]
    model = model_of(objective, dims, width=64, depth=3)
    params = trained(objective, model, oracle, 4000)
    levels = LEVELS[:1] if count == 1 else (80.0, 1.0)
    x = 80 * jr.normal(jr.key(9), (2000, dims), jnp.float32)
    grid = ss.grids.levels(*levels)
    found = ss.sample("jump", jump(model, params), x, grid).x
    exact = oracle.flow(x, 80.0, 0.0)
    euler = ss.sample("jump", oracle.denoise, x, grid).x
    error, of_euler = (
        float(jnp.sqrt(((a - exact) ** 2).mean())) for a in (found, euler)
    )
    print(f"{method}: {error:.4f}, Euler {of_euler:.4f}")
    assert error < of_euler / 3


@pytest.mark.slow
def test_a_two_time_student_is_a_denoiser_too():
    oracle = single(GAUSSIAN)
    objective = made("flow_map", start_from="scratch")
    model = model_of(objective, 4, width=64, depth=3)
    params = trained(objective, model, oracle, 3000)
    x = oracle.sample(jr.key(0), 500).astype(jnp.float32)
    x = x + jr.normal(jr.key(1), x.shape, jnp.float32)
    error = denoiser(model, params)(x, 1.0) - oracle.denoise(x, 1.0)
    assert float(jnp.sqrt((error**2).mean())) < 0.03
    assert carry(jump(model, params), x, 1.0, 1.0).shape == x.shape
