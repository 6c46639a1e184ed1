"""What guidance and restoration need of the other parts of a config, at build."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import score_sde as ss
from configs import digits
from score_sde.networks import Network
from score_sde.networks.perturbed import perturbed
from score_sde.run.build import ConfigError, build
from score_sde.run.sections import complete
from score_sde.types import UserError


def made(**sections):
    config = digits.get_config("label").to_dict() | sections
    return build(complete(config))


PLUS_PLUS = {"name": "plus_plus", "weight": 0.5}
EULERS = [
    {"name": "euler"},
    {"name": "ddim"},
    {"name": "dpm_solver_1"},
    {"name": "euler_ancestral", "eta": 0.0},
]


@pytest.mark.parametrize("sampler", EULERS, ids=lambda s: s["name"])
def test_cfg_plus_plus_takes_the_samplers_whose_steps_are_eulers(sampler):
    made(guidance=PLUS_PLUS, sampler=sampler)


@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "heun"},
        {"name": "dpmpp_2m"},
        {"name": "euler_ancestral"},
        {"name": "ddim", "eta": 0.5},
        {"name": "euler", "s_churn": 10.0},
        {"name": "dpm_adaptive"},
    ],
    ids=lambda s: str(s),
)
def test_cfg_plus_plus_refuses_other_samplers(sampler):
    message = f"'{sampler['name']}'; guidance 'plus_plus' is exact for Euler's steps"
    with pytest.raises(ConfigError, match=message):
        made(guidance=PLUS_PLUS, sampler=sampler)


MOMENTUM = {"name": "projected", "momentum": -0.5}


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ({"name": "dpm_adaptive"}, "steps of its own, which carry no memory"),
        ({"name": "repaint"}, "steps of its own, which carry no memory"),
        ({"name": "heun", "s_churn": 10.0}, "begins a step elsewhere than at x"),
    ],
)
def test_momentum_refuses_samplers_that_carry_no_memory(sampler, message):
    with pytest.raises(ConfigError, match=f"remembers the step before.*{message}"):
        made(guidance=MOMENTUM, sampler=sampler)
    made(guidance={"name": "projected"}, sampler=sampler)
    made(guidance=MOMENTUM, sampler={"name": "heun"})


@pytest.mark.parametrize("sampler", EULERS[1:], ids=lambda s: s["name"])
def test_samplers_that_say_so_take_eulers_steps(sampler):
    options = {k: v for k, v in sampler.items() if k != "name"}
    rule = ss.samplers.SAMPLERS[sampler["name"]](**options)
    assert rule.is_euler
    x, grid = jr.normal(jr.key(1), (3, 4)), jnp.asarray([2.0, 1.1, 0.4, 0.0])
    denoise = lambda x, sigma, cond=None: jnp.tanh(x) / (1 + sigma)  # noqa: E731
    found = ss.sample(rule, denoise, x, grid, key=jr.key(2)).x
    np.testing.assert_allclose(
        found, ss.sample("euler", denoise, x, grid).x, rtol=1e-9, atol=1e-12
    )


def test_networks_without_linen_modules_can_t_be_perturbed():
    plain = Network(lambda key: {}, lambda params, x, noise, cond=None: x)
    blind = perturbed(plain, attention=["*"])
    with pytest.raises(UserError, match="this network has none .one of NNX"):
        blind.apply({}, jnp.ones((1, 4)), jnp.ones(1))
