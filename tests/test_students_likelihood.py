"""Students that learn the divergence of their jumps: their losses, what they reach."""

import copy
import re
from pathlib import Path
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import GAUSSIAN, MIXTURE
from test_students import BATCH, SDE, made, model_of, prepared, single, trained

import score_sde as ss
from experiments.launch import load_config
from score_sde.networks import MLP, NETWORKS
from score_sde.run.build import build
from score_sde.run.model import jump
from score_sde.run.objective import Batch
from score_sde.run.students_likelihood import LIKELIHOODS
from score_sde.types import UserError

SMALL = {"num_levels": 5, "num_trajectories": 32, "teacher_steps": 3, "num_probes": 2}


def objective_of(name, **options):
    shared = {"sde": SDE, "sigma_data": 0.5}
    if name == "direct_likelihood":
        return LIKELIHOODS[name](**shared, **(SMALL | options))
    return made(name, **options)


@pytest.mark.slow
def test_losses_of_stored_flows_are_of_each_example_alone():
    objective = objective_of("direct_likelihood")
    model, oracle = model_of(objective, 4), single(GAUSSIAN)
    params, context = prepared(objective, model, oracle)

    def loss(params, x0):
        return objective(jr.key(2), params, Batch(x0, None, {}), context)

    x0 = jnp.zeros((BATCH, 4), jnp.float32)  # it learns of what is stored alone
    found, fewer, slope = jax.jit(
        lambda p: (
            loss(p, x0),
            loss(p, x0[:3]),
            jax.grad(lambda p: loss(p, x0).mean())(p),
        )
    )(params)
    assert found.shape == (BATCH,)
    np.testing.assert_allclose(fewer, found[:3], rtol=1e-6)
    sizes = jax.tree.map(lambda a: float(jnp.abs(a).max()), slope["network"])
    assert all(np.isfinite(a) for a in jax.tree.leaves(sizes))
    assert sizes["divergence"]["Dense_1"]["kernel"] > 0


@pytest.mark.slow
def test_what_is_stored_is_the_flow_and_its_gain():
    """Levels rise; between any two of them map and gain are the oracle's."""
    objective = objective_of("direct_likelihood", num_probes=200)
    model, oracle = model_of(objective, 4), single(GAUSSIAN)
    _, context = prepared(objective, model, oracle)
    x, gained = context.prepared["x"], context.prepared["gained"]
    levels = objective.grid()
    np.testing.assert_allclose(levels[[0, -1]], [0.002, 80.0])
    assert x.shape == (32, 5, 4)
    for i, j in ((0, 4), (1, 2)):
        ends = [jnp.full(32, levels[k], jnp.float32) for k in (i, j)]
        scale = float(np.hypot(levels[j], 0.5))
        end = oracle.flow(x[:, i], *ends)
        np.testing.assert_allclose(x[:, j] / scale, end / scale, atol=5e-3)
        # Of 200 probes along a path of 10.6 in log sigma: 0.02, and the solver's.
        exact = oracle.jump_divergence(x[:, i], *ends) * jnp.log(ends[1] / ends[0])
        np.testing.assert_allclose(gained[:, j] - gained[:, i], exact, atol=0.1)


@pytest.mark.parametrize("method", ["lagrangian", "eulerian", "semigroup"])
@pytest.mark.slow
def test_flow_map_likelihoods_learn_both(method):
    """The head and the network get a gradient by each method."""
    objective = objective_of("flow_map_likelihood", method=method)
    model, oracle = model_of(objective, 2), single(MIXTURE)
    params, context = prepared(objective, model, oracle)
    x0 = oracle.sample(jr.key(1), BATCH).astype(jnp.float32)

    def loss(p):
        return objective(jr.key(2), p, Batch(x0, None, {}), context).mean()

    slope = jax.jit(jax.grad(loss))(params)["network"]
    sizes = jax.tree.map(lambda a: float(jnp.abs(a).max()), slope)
    assert sizes["divergence"]["Dense_1"]["kernel"] > 0
    assert sizes["Dense_0"]["kernel"] >= 0


def test_half_way_up_and_half_way_down():
    """Where jumps end lies above or below where they begin, within the SDE's ends."""
    objective = objective_of("flow_map_likelihood", share_up=0.5)
    x0 = jnp.zeros((4000, 2), jnp.float32)
    drawn = jax.jit(objective.draw)(jr.key(0), Batch(x0, None, {}))
    up = np.asarray(drawn.r > drawn.t)
    assert abs(up.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    ends = objective.sigma_data * np.tan(np.asarray(drawn.r, np.float64))
    assert ends.min() > 0.0019
    assert ends.max() < 81  # a jump up from the top is of a hundredth
    between = np.sort(np.stack([drawn.t, drawn.middle, drawn.r]), axis=0)[1]
    np.testing.assert_array_equal(between, drawn.middle)
    assert objective.reach().way == "both"
    assert objective_of("flow_map_likelihood", share_up=1.0).reach().way == "up"


def test_levels_lead_from_the_data_to_the_prior():
    objective = objective_of("direct_likelihood", levels=(0.1, 80.0))
    model = model_of(objective, 4)
    with pytest.raises(UserError, match="objective.levels: sigmas must increase from"):
        prepared(objective, model, single(GAUSSIAN))


@pytest.mark.parametrize("levels", [(1.0,), (2.0, 1.0)])
def test_wrong_levels_are_refused(levels):
    with pytest.raises(ValueError, match="two or more levels that increase"):
        objective_of("direct_likelihood", levels=levels)


# What a config may ask for.


def config_of(variant, network=None, **sections):
    name = f"digits:{variant}" if variant else "digits"
    config = copy.deepcopy(load_config(name, Path()))
    config = {**config, "companions": {"teacher": {"run": "anywhere"}}}
    config |= {k: {**config[k], **v} for k, v in sections.items()}
    return config | ({"network": network} if network else {})


def test_the_network_of_a_config_has_the_head_and_the_objective_its_levels():
    experiment = build(config_of("direct_likelihood", likelihood={"num_jumps": 8}))
    model = experiment.model
    assert model.learns_divergence
    assert model.reach().way == "up"
    shapes = jax.eval_shape(lambda: model.network.init(jr.key(0)))
    assert shapes["divergence"]["Dense_1"]["kernel"].shape == (128, 1)
    x = jnp.ones((2, 8, 8, 1), jnp.float32)
    found = jax.eval_shape(
        lambda p: jump(model, {"network": p}).with_divergence(x, 1.0, 2.0), shapes
    )
    assert [a.shape for a in found] == [(2, 8, 8, 1), (2,)]


class Headless(MLP):
    """A network that is told where a jump ends, but not asked for its divergence."""

    reads: ClassVar = frozenset({"ratio"})


@pytest.mark.parametrize(
    ("variant", "network", "says"),
    [
        ("flow_map", None, "'flow_map' learns no divergence of jumps"),
        ("consistency", None, "'consistency' learns no divergence of jumps"),
        ("", None, "'denoising' learns no divergence of jumps"),
        ("direct_likelihood", None, "the student has learned 8 jumps"),
        (
            "direct_likelihood",
            {"name": "headless", "width": 8, "depth": 1},
            "gives the divergence of a jump, cond['divergence']",
        ),
    ],
)
def test_what_no_few_jumps_can_score_is_refused_in_a_line(
    variant, network, says, monkeypatch
):
    monkeypatch.setitem(NETWORKS, "headless", Headless)
    config = config_of(variant, network, likelihood={"num_jumps": 9})
    with pytest.raises(UserError, match=re.escape(says)):
        build(config)


# What is learned: the error of the log-density, in nats a dimension.

METHODS = {
    "direct_likelihood": {
        "num_trajectories": 8000,
        "num_levels": 9,
        "num_probes": 0,
    },
    "flow_map_likelihood": {"method": "lagrangian", "share_up": 1.0},
}


def errors_of(found, oracle, x, count):
    """Mean and root mean square error of the log-density, in nats a dimension.

    Beside the exact flow to t_max and the prior there, so that the prior is left out.
    """
    latent = oracle.flow(x, 0.002, 80.0)
    prior = ss.prior_log_prob(latent, sde=SDE) - oracle.log_prob(latent, 80.0)
    exact = oracle.log_prob(x, 0.002) + prior
    lp = ss.few_step_log_prob(x, sde=SDE, jump=found, num_evals=count)
    error = np.asarray((lp.nats - exact) / x.shape[1], np.float64)
    return error.mean(), np.sqrt((error**2).mean())


@pytest.mark.slow
@pytest.mark.timeout(1200)  # training takes minutes, and more on a busy machine
@pytest.mark.parametrize(
    ("oracle", "name", "counts"),
    [
        (GAUSSIAN, "direct_likelihood", (1, 2, 4, 8)),
        (MIXTURE, "direct_likelihood", (1, 2, 4, 8)),
        # In as many steps its long jumps are not learned: 0.06 off in one.
        (GAUSSIAN, "flow_map_likelihood", (8,)),
    ],
    ids=["gauss4 direct", "gmm2 direct", "gauss4 flow map"],
)
def test_students_come_near_the_exact_log_density(oracle, name, counts):
    oracle = single(oracle)
    objective = objective_of(name, start_from="scratch", **METHODS[name])
    dims = oracle.means.shape[1]
    model = model_of(objective, dims, width=64, depth=3)
    params = trained(objective, model, oracle, 4000)
    x = oracle.sample(jr.key(9), 2000).astype(jnp.float32)
    x = x + 0.002 * jr.normal(jr.key(8), x.shape, jnp.float32)
    for count in counts:
        mean, rms = errors_of(jump(model, params), oracle, x, count)
        print(f"{name} {count}: {mean:+.5f} {rms:.5f}", flush=True)
        assert abs(mean) < 0.02
        assert rms < 0.1


class LinearInX(nn.Module):
    """A x + b, and h: functions of the two levels alone, as of a Gaussian they are."""

    @nn.compact
    def __call__(self, x, noise, cond=None):
        dims = x.shape[1]
        h = jnp.stack([noise, jnp.log(cond["ratio"]) / 4], axis=1)
        for _ in range(2):
            h = nn.silu(nn.Dense(64)(h))
        out = nn.Dense(dims**2 + dims + 1, kernel_init=nn.initializers.zeros)(h)
        matrix, shift, last = jnp.split(out, [dims**2, dims**2 + dims], axis=1)
        moved = jnp.einsum("bij,bj->bi", matrix.reshape(-1, dims, dims), x)
        return jnp.concatenate([moved + shift, last], axis=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_small_network_reaches_the_log_density_of_a_gaussian():
    """At four evaluations within 1e-4 nats a dimension, root mean square."""
    oracle = single(GAUSSIAN)
    objective = objective_of(
        "direct_likelihood",
        start_from="scratch",
        num_trajectories=2000,
        teacher_steps=12,
        num_probes=0,
        divergence_weight=150.0,
    )
    model = model_of(objective, 4, module=LinearInX())
    params = trained(objective, model, oracle, 10_000, rate=5e-3, last=1e-5)
    x = oracle.sample(jr.key(9), 2000).astype(jnp.float32)
    for count in (1, 2, 4):
        mean, rms = errors_of(jump(model, params), oracle, x, count)
        print(f"{count}: {mean:+.6f} {rms:.6f}", flush=True)
    assert abs(mean) < 1e-4
    assert rms < 1e-4
