"""Levels tuned to a model and a sampler, on flows that are known."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import GAUSSIAN, unless

import score_sde as ss
from score_sde.run.tune import tune
from score_sde.samplers import grids
from score_sde.training.tuned_levels import tuned_levels
from score_sde.types import UserError

pytestmark = pytest.mark.usefixtures("standard_promotion")  # of optax's counters

NUM_STEPS = 5
ENDS = {"sigma_min": 0.02, "sigma_max": 80.0}
STARTS = {
    "karras": grids.karras(NUM_STEPS, **ENDS),
    "exponential": grids.exponential(NUM_STEPS, **ENDS),
}


def distances(sampler, key):
    """(distance of a grid from the end of the flow, the same on other paths)."""

    def distance(x):
        exact = GAUSSIAN.flow(x, 80.0, 0.0)
        return lambda sigmas: jnp.sqrt(
            jnp.mean((ss.sample(sampler, GAUSSIAN.denoise, x, sigmas).x - exact) ** 2)
        )

    return [distance(80.0 * jr.normal(k, (64, 4))) for k in jr.split(key)]


@pytest.mark.parametrize("sampler", unless("euler".__eq__, ["euler", "deis"]))
def test_tuned_levels_end_nearer_to_the_end_of_the_flow(sampler, key):
    distance, on_others = distances(sampler, key)
    tuned = tuned_levels(distance, STARTS, sigma_low=0.002)
    fixed = {name: float(distance(sigmas)) for name, sigmas in STARTS.items()}
    assert tuned.starts == pytest.approx(fixed)
    assert tuned.start == min(fixed, key=fixed.get)
    assert tuned.distance == pytest.approx(float(distance(tuned.sigmas)))
    assert tuned.distance < 0.8 * min(fixed.values())
    assert on_others(tuned.sigmas) < 0.8 * min(map(on_others, STARTS.values()))
    sigmas = np.asarray(tuned.sigmas)
    assert (sigmas[0], sigmas[-1], len(sigmas)) == (80.0, 0.0, NUM_STEPS + 1)
    assert (np.diff(sigmas) < 0).all()
    assert sigmas[-2] >= 0.002


def test_euler_steps_of_a_flow_that_is_linear_in_sigma_have_nothing_to_gain():
    """All data at one point: every grid ends there, and the first one stays."""
    sampled = lambda sigmas: ss.sample(
        "euler", lambda x, s, cond=None: 0 * x, jnp.ones((1, 2)), sigmas
    )
    tuned = tuned_levels(
        lambda sigmas: jnp.sum(sampled(sigmas).x ** 2),
        STARTS,
        sigma_low=0.002,
        num_updates=3,
    )
    assert tuned.distance == 0
    np.testing.assert_array_equal(tuned.sigmas, STARTS[tuned.start])


@pytest.mark.slow
def test_the_distance_is_differentiated_through_the_sampler(key):
    """Against differences, for a level inside."""
    distance, _ = distances("heun", key)
    sigmas = STARTS["karras"]
    step = jnp.zeros_like(sigmas).at[2].set(1e-5)
    difference = (distance(sigmas + step) - distance(sigmas - step)) / 2e-5
    assert jax.grad(distance)(sigmas)[2] == pytest.approx(float(difference), rel=1e-6)


def test_a_grid_that_leads_nowhere_is_the_worst():
    broken = {**STARTS, "broken": STARTS["karras"].at[1].set(jnp.nan)}
    tuned = tuned_levels(
        lambda sigmas: jnp.sum(sigmas), broken, sigma_low=0.002, num_updates=1
    )
    assert tuned.start != "broken"
    with pytest.raises(ValueError, match="no grid leads to finite samples"):
        tuned_levels(lambda sigmas: sigmas.sum() * jnp.nan, STARTS, sigma_low=0.002)


REFUSED = {
    "adds noise": {"sampler": {"name": "ddpm"}},
    "its guidance depends on the grid": {
        "conditions": {"label": {}},
        "sampler": {"name": "euler"},
        "guidance": {"name": "plus_plus"},
    },
    "its guidance remembers": {
        "conditions": {"label": {}},
        "guidance": {"name": "projected", "momentum": -0.5},
    },
    "there must be two steps or more": {"grid": {"name": "karras", "num_steps": 1}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_has_no_grid_to_tune_is_refused(message):
    from configs import digits
    from score_sde.run.build import build
    from score_sde.run.companions import NOTHING
    from score_sde.run.open import Run
    from score_sde.run.sections import complete
    from score_sde.run.train import initial_params

    config = digits.get_config().to_dict() | REFUSED[message]
    experiment = build(complete(config))
    params = jax.eval_shape(lambda: initial_params(experiment, {}))
    run = Run(config, experiment, 1, params, "", NOTHING)
    with pytest.raises(UserError, match=message):
        tune(run)
