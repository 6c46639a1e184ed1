import re
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import GAUSSIAN, MIXTURE, close, golden, unless
from jax.sharding import NamedSharding, PartitionSpec

import score_sde as ss
from score_sde.samplers import SAMPLERS, BrownianPath, progress_bar

grids = ss.grids
CASES, ARRAYS = golden("k_diffusion")
KARRAS = partial(grids.karras, sigma_min=0.002, sigma_max=80.0)

# Every registered sampler, and each with its noise switched on, where it has any.
VARIANTS = {name: make() for name, make in SAMPLERS.items()}
# The published tolerances of dpm_adaptive are for pictures.
PRECISE = {"rtol": 5e-3, "atol": 5e-4}
VARIANTS |= {
    "dpm_adaptive": SAMPLERS["dpm_adaptive"](**PRECISE),
    "heun with churn": SAMPLERS["heun"](
        s_churn=20.0, s_tmin=0.05, s_tmax=50.0, s_noise=1.003
    ),
    "dpm_fast with noise": SAMPLERS["dpm_fast"](eta=1.0),
    "dpm_adaptive with noise": SAMPLERS["dpm_adaptive"](eta=1.0, **PRECISE),
}
VARIANTS |= {
    "ddim with noise": SAMPLERS["ddim"](eta=0.5),
    "ddpm fixed_large": SAMPLERS["ddpm"](variance="fixed_large"),
    "dpm_solver_2 sde": SAMPLERS["dpm_solver_2"](algorithm_type="sde-dpmsolver++"),
    "dpm_solver_3 singlestep": SAMPLERS["dpm_solver_3"](
        method="singlestep", lower_order_final=False
    ),
    "plms runge_kutta": SAMPLERS["plms"](start="runge_kutta"),
    "unipc 3": SAMPLERS["unipc"](order=3, lower_order_final=False),
    "predictor_corrector subvp": SAMPLERS["predictor_corrector"](
        sde=ss.SubVP(), predictor="euler_maruyama", corrector="ald"
    ),
    "predictor_corrector flow": SAMPLERS["predictor_corrector"](
        predictor="probability_flow", corrector="none"
    ),
}
# Its own tests are in test_samplers_chain: it takes steps of its own.
OWN_STEPS = {"adaptive_sde"}
# Langevin steps have a law of their own, and step sizes by norms one in few dimensions.
# `consistency` draws from the law of a map, which a denoiser is not: test_few_steps.
# Discrete steps of the flow are of first order in sigma^2, too coarse for these grids:
# test_samplers_orders.
OTHER_LAW = {
    "langevin",
    "predictor_corrector",
    "consistency",
    "predictor_corrector flow",
}


def over(left_out, by_default):
    """Some samplers by default, the others and all variants among the slow tests."""
    chosen = [name for name in VARIANTS if name not in left_out]
    cases = [
        pytest.param(VARIANTS[n], marks=() if n in by_default else pytest.mark.slow)
        for n in chosen
    ]
    return pytest.mark.parametrize("sampler", cases, ids=chosen)


# One of each family.
FEW = ("heun", "dpmpp_2m", "euler_ancestral", "ddim", "dpm_adaptive")
sweep = over(OWN_STEPS, SAMPLERS)
sweep_few = over(OWN_STEPS, FEW)
sweep_laws = over(OWN_STEPS | OTHER_LAW, FEW)

# Those that choose their steps themselves.
ADAPTIVE = (SAMPLERS["dpm_adaptive"],)
OWN_GRID = (*ADAPTIVE, SAMPLERS["dpm_fast"])


def start(key, sigmas, num=500, dims=4):
    return sigmas[0] * jr.normal(key, (num, dims))


def smooth(x, sigma, cond=None):
    """A denoiser that is no oracle, for properties that hold for any: it is cheap."""
    level = jnp.asarray(sigma, x.dtype)
    level = level.reshape(level.shape + (1,) * (x.ndim * level.ndim - level.ndim))
    return jnp.tanh(x / (1 + level)) / (1 + 0.1 * x**2 / (1 + level**2))


def of(function):
    return [c for c in CASES if c["function"] == function]


# Grids.


@pytest.mark.parametrize("case", of("kd.schedule"), ids=lambda c: c["id"])
def test_grids_are_those_of_a_peer(case):
    options = dict(case["in"])
    kind, num_steps = options.pop("kind"), options.pop("n")
    sigmas = grids.GRIDS[kind](num_steps, **options)
    expected = ARRAYS[case["out"]["sigmas"][1:]]
    assert close(sigmas, expected, case["tol"]["sigmas"]["f64"])


OWN_LEVELS = {"vp", "ddpm", "sections", "levels"}
"""Grids whose ends, or whose number of levels, are not stated."""


@pytest.mark.parametrize("name", sorted(grids.GRIDS.keys() - OWN_LEVELS))
def test_grids_fall_from_sigma_max_to_sigma_min_and_zero(name):
    sde = ss.VE()
    options = {"sde": sde} if name == "uniform_time" else {}
    if not options:
        options = {"sigma_min": 0.01, "sigma_max": 50.0}
    sigmas = np.asarray(grids.GRIDS[name](10, **options))
    assert sigmas.shape == (11,)
    np.testing.assert_allclose(sigmas[[0, -2, -1]], [50.0, 0.01, 0.0], rtol=1e-4)
    assert (np.diff(sigmas) < 0).all()


# Properties of all.


@sweep_laws
def test_samples_have_the_moments_of_the_data(sampler, key):
    sigmas = KARRAS(200)
    x = start(key, sigmas, num=5_000)
    draw = jax.jit(
        lambda x: ss.sample(sampler, GAUSSIAN.denoise, x, sigmas, key=jr.key(1)).x
    )
    out = draw(x)
    covariance = np.asarray(GAUSSIAN.covariance())
    scale = np.sqrt(np.diag(covariance))
    # Five standard errors from 5,000 draws, and 2 % for the steps of Euler (measured
    # bias at 200 steps: 1.2 %) and for the inflation of noise by s_noise.
    error = 5 * scale / np.sqrt(5_000) + 0.02 * scale
    assert (np.abs(out.mean(0) - GAUSSIAN.mean()) < error).all()
    bound = (5 * np.sqrt(2 / 5_000) + 0.04) * np.outer(scale, scale)
    assert (np.abs(np.cov(out.T) - covariance) < bound).all()


@sweep_laws
def test_samples_of_a_mixture_have_its_proportions(sampler, key):
    sigmas = KARRAS(60)
    x = start(key, sigmas, num=4_000, dims=2)
    draw = jax.jit(
        lambda x: ss.sample(sampler, MIXTURE.denoise, x, sigmas, key=jr.key(1)).x
    )
    component = np.argmax(MIXTURE.log_joint(draw(x), 0.05), axis=1)
    share = np.bincount(component, minlength=3) / 4_000
    weights = np.asarray(MIXTURE.weights)
    # Five standard errors, and 1 % for the steps.
    error = 5 * np.sqrt(weights * (1 - weights) / 4_000) + 0.01
    assert (np.abs(share - weights) < error).all()


@sweep
def test_evaluations_are_counted_exactly(sampler, key):
    calls = []

    def denoise(x, sigma, cond=None):
        jax.debug.callback(lambda: calls.append(1))
        return smooth(x, sigma)

    for sigmas in (KARRAS(7), KARRAS(7)[:-1]):
        calls.clear()
        x = start(key, sigmas, num=3)
        out = jax.jit(lambda x, s: ss.sample(sampler, denoise, x, s, key=key))(
            x, sigmas
        )
        jax.block_until_ready(out)
        jax.effects_barrier()
        # Of examples with steps of their own, the slowest is called to the end.
        assert out.num_evals.max() == len(calls)
        if isinstance(sampler, ADAPTIVE):
            steps = out.num_accepted + out.num_rejected
            assert (out.num_evals == sampler.order * steps).all()


@sweep_few
def test_a_sample_does_not_depend_on_batch_or_devices(sampler, key):
    sigmas = KARRAS(5)
    x = start(key, sigmas, num=8)

    @jax.jit
    def draw(x):
        return ss.sample(sampler, smooth, x, sigmas, key=jr.key(1)).x

    whole = draw(x)
    np.testing.assert_allclose(draw(x[:3]), whole[:3], rtol=0, atol=1e-12)
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    # Sums of order one round differently on other devices.
    np.testing.assert_allclose(draw(sharded), whole, rtol=0, atol=1e-12)


@sweep_few
def test_the_path_leads_from_start_to_sample(sampler, key):
    sigmas = KARRAS(5)
    x = start(key, sigmas, num=2)
    draw = partial(ss.sample, sampler, smooth, x, key=key, return_path=True)
    if isinstance(sampler, ADAPTIVE):
        with pytest.raises(ValueError, match="has no path"):
            draw(sigmas)
        return
    out = draw(sigmas)
    steps = 2 if isinstance(sampler, OWN_GRID) else 5  # orders 3 and 2
    assert out.path.shape == (steps + 1, 2, 4)
    np.testing.assert_array_equal(out.path[0], x)
    np.testing.assert_array_equal(out.path[-1], out.x)
    # Progressive generation: the first prediction is that of the starting point.
    assert out.denoised.shape == (steps, 2, 4)
    if not sampler.stochastic:
        first = smooth(x, sigmas[0])
        np.testing.assert_allclose(out.denoised[0], first, rtol=1e-12)
    # With lower orders at the end, a shorter grid is another method.
    own = isinstance(sampler, OWN_GRID) or getattr(sampler, "lower_order_final", False)
    if not sampler.stochastic and not own:
        np.testing.assert_allclose(out.path[3], draw(sigmas[:4]).x, rtol=1e-12)


@sweep_few
def test_samplers_work_under_grad_and_vmap_and_keep_float32(sampler, key):
    sigmas = KARRAS(5)
    x = start(key, sigmas, num=2)
    keys = jr.split(key, 3)

    def draw(x, key):
        return ss.sample(sampler, smooth, x, sigmas, key=key).x

    def total(x, key):
        return draw(x, key).sum()

    value = jax.jit(total)
    # A loop of unknown length has no reverse mode; the next test has the forward one.
    if not isinstance(sampler, ADAPTIVE):
        step = 1e-4
        above, below = (value(x + s, keys[1]) for s in (step, -step))
        slope = (above - below) / (2 * step)
        gradient = jax.jit(jax.grad(total))(x, keys[1]).sum()
        assert float(gradient) == pytest.approx(float(slope), rel=1e-4, abs=1e-7)
    mapped = jax.jit(jax.vmap(total, in_axes=(None, 0)))(x, keys)
    np.testing.assert_allclose(mapped[1], value(x, keys[1]), rtol=1e-9)
    single = jax.eval_shape(draw, x.astype(jnp.float32), key)
    assert single.dtype == jnp.float32


def test_an_adaptive_sample_moves_with_its_start_as_the_flow_does():
    """With its steps held: in float32 the first has no error to differentiate."""
    sampler = SAMPLERS["dpm_adaptive"](rtol=1e-5, atol=1e-6)
    sigmas = grids.karras(2, sigma_min=0.002, sigma_max=1e4)

    @jax.jit
    def derivative(x):
        def draw(x):
            return ss.sample(sampler, GAUSSIAN.denoise, x, sigmas).x

        return jax.jvp(draw, (x,), (jnp.ones_like(x),))[1]

    ends = sigmas[0] * jnp.ones((1, 4)), (sigmas[0] + 1) * jnp.ones((1, 4))
    low, high = (GAUSSIAN.flow(x, sigmas[0], sigmas[1]) for x in ends)
    # A hundred steps, each of a tolerance of 1e-5 relative to x and to its derivative.
    np.testing.assert_allclose(
        derivative(ends[0].astype(jnp.float32)), high - low, rtol=0.01
    )


def test_conditions_reach_the_denoiser(key):
    def denoise(x, sigma, cond):
        return jnp.broadcast_to(cond[:, None], x.shape)

    labels = jnp.asarray([1.0, 2.0])
    out = ss.sample(
        "heun", denoise, start(key, KARRAS(4), num=2), KARRAS(4), cond=labels
    )
    np.testing.assert_allclose(out.x, [[1.0] * 4, [2.0] * 4], rtol=1e-9)


def test_an_example_that_fails_spares_the_others(key):
    def denoise(x, sigma, cond=None):
        return jnp.where(jnp.arange(3)[:, None] == 1, jnp.nan, smooth(x, sigma))

    out = ss.sample("dpm_adaptive", denoise, start(key, KARRAS(5), num=3), KARRAS(5))
    assert out.success.tolist() == [True, False, True]
    assert jnp.isfinite(out.x[::2]).all()


def test_adaptive_steps_wait_for_no_other_device(key):
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    row = PartitionSpec("data")
    draw = jax.jit(
        jax.shard_map(
            lambda x: ss.sample("dpm_adaptive", smooth, x, KARRAS(5)),
            mesh=mesh,
            in_specs=row,
            out_specs=row,
            check_vma=False,
        )
    )
    x = start(key, KARRAS(5), num=8)
    program = draw.lower(x).compile().as_text()
    assert "while(" in program
    assert "all-reduce" not in program
    alone = ss.sample("dpm_adaptive", smooth, x[2:3], KARRAS(5))
    out = draw(x)
    assert out.num_evals[2] == alone.num_evals[0]
    np.testing.assert_allclose(out.x[2], alone.x[0], atol=1e-12)


def test_tighter_tolerances_are_closer_to_the_flow(key):
    """Within the tolerance, as the error of a step is that of its lower order."""
    sigmas, errors = KARRAS(5)[:-1], []
    x = start(key, sigmas, num=20)
    exact = GAUSSIAN.flow(x, sigmas[0], sigmas[-1])
    for rtol in (1e-2, 1e-3, 1e-4):
        sampler = SAMPLERS["dpm_adaptive"](rtol=rtol, atol=rtol / 10)
        out = ss.sample(sampler, GAUSSIAN.denoise, x, sigmas)
        assert out.success.all()
        errors.append(float(np.abs(out.x - exact).max()))
        # A few steps add up, each accepted at some times the tolerance.
        assert errors[-1] < 10 * rtol
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("name", ["heun", "dpm_adaptive"])
def test_progress_is_reported_from_the_first_level_to_the_last(name, key, capsys):
    seen = []
    x = start(key, KARRAS(4), num=2)

    def report(passed, total):
        seen.append((passed, total))
        progress_bar(passed, total)

    draw = jax.jit(lambda x: ss.sample(name, smooth, x, KARRAS(4), progress=report).x)
    shown = draw(x)
    jax.block_until_ready(shown)
    jax.effects_barrier()
    assert seen[0] == (0, 4)
    assert {passed for passed, _ in seen} >= {0, 1, 2, 3, 4}
    assert max(seen) == (4, 4)
    assert "4/4" in capsys.readouterr().err
    # Another program rounds otherwise, which steps of the sampler's own amplify.
    hidden = ss.sample(name, smooth, x, KARRAS(4)).x
    np.testing.assert_allclose(shown, hidden, rtol=1e-8)


def test_progress_costs_nothing_when_it_is_off(key):
    x = start(key, KARRAS(4), num=2)
    trace = jax.make_jaxpr(lambda x: ss.sample("heun", smooth, x, KARRAS(4)).x)(x)
    assert "callback" not in str(trace)


def test_one_trace_serves_many_calls(key):
    traces = []

    def denoise(x, sigma, cond=None):
        traces.append(1)
        return GAUSSIAN.denoise(x, sigma)

    draw = jax.jit(
        lambda x, s, key: ss.sample("euler_ancestral", denoise, x, s, key=key)
    )
    for seed in range(3):
        draw(start(key, KARRAS(9)), KARRAS(9), jr.key(seed))
    assert len(traces) == 1  # in the body of the one scan


@pytest.mark.slow
@pytest.mark.parametrize("make", [grids.karras, grids.exponential])
@pytest.mark.parametrize(
    "dtype", unless(lambda d: d == jnp.float32, [jnp.float32, jnp.float64])
)
def test_a_grid_begins_at_sigma_max_itself(make, dtype, key):
    """Not a rounding above it, where a Brownian path has not begun."""
    for sigma_max in (80.0, 157.3, 50.0):
        ends = (jnp.asarray(s, dtype) for s in (0.002, sigma_max))
        sigmas = make(10, **dict(zip(("sigma_min", "sigma_max"), ends, strict=True)))
        assert sigmas.dtype == dtype
        assert sigmas[0] == jnp.asarray(sigma_max, dtype)
        path = BrownianPath(key, sigma_max=sigmas[0])
        ss.sample(
            "euler_ancestral",
            smooth,
            sigmas[0] * jnp.ones((1, 2), dtype),
            sigmas[-3:],
            noise=path,
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KARRAS(0), "num_steps is 0; it must be >= 1"),
        (lambda: grids.uniform_time(-1, sde=ss.VP()), "num_steps is -1"),
        (
            lambda: grids.karras(5, sigma_min=80.0, sigma_max=1.0),
            "0 < sigma_min < sigma_max, got 80.0 and 1.0",
        ),
        (
            lambda: grids.exponential(5, sigma_min=0.0, sigma_max=1.0),
            "sigma_min is 0.0",
        ),
    ],
)
def test_grids_that_are_none_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            ("eular", KARRAS(3)),
            {},
            r"unknown sampler 'eular'; choose from \[.*'edm', .*'euler'",
        ),
        (("euler", KARRAS(3)[::-1]), {}, "sigmas must be finite and decrease"),
        (("euler", jnp.asarray([1.0, jnp.nan])), {}, "must be finite"),
        (("euler", jnp.asarray([1.0])), {}, "at least two"),
        (("euler", jnp.asarray([1.0, -1.0])), {}, "must not be negative"),
        (("euler_ancestral", KARRAS(3)), {}, "adds noise: give it a key"),
        (("dpmpp_sde", KARRAS(3)), {"noise": jnp.ones((6, 3, 4))}, "noise must be"),
        (
            ("dpmpp_sde", KARRAS(3)),
            {"noise": BrownianPath(jr.key(0), sigma_max=50.0)},
            "begins at sigma_max 50.0, below the first level 80.0",
        ),
        (("dpm_fast", KARRAS(1)), {}, "two levels above 0"),
    ],
)
def test_bad_input_is_answered_before_any_step(arguments, options, message):
    name, sigmas = arguments
    with pytest.raises(ValueError, match=message):
        ss.sample(name, GAUSSIAN.denoise, jnp.ones((2, 4)), sigmas, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("heun", {"s_churn": -1.0}, "Heun: s_churn is -1.0; it must be >= 0"),
        ("heun", {"s_noise": float("nan")}, "s_noise is nan; it must be a number"),
        ("euler", {"s_tmin": 2.0, "s_tmax": 1.0}, "Euler needs s_tmin <= s_tmax, got"),
        ("euler_ancestral", {"eta": -0.5}, "eta is -0.5; it must be >= 0"),
        ("lms", {"order": 0}, "order is 0; it must be >= 1"),
        ("dpmpp_sde", {"r": 0.0}, "r is 0.0; it must be > 0 and <= 1"),
        ("dpmpp_sde", {"eta": -1.0}, "eta is -1.0; it must be >= 0"),
        ("dpmpp_2m_sde", {"solver_type": "heum"}, "'heum'; did you mean 'heun'?"),
        ("dpm_adaptive", {"order": 4}, "order is 4; it must be from 2 to 3"),
        ("dpm_adaptive", {"atol": 0.0}, "atol is 0.0; it must be > 0"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SAMPLERS[name](**options)
