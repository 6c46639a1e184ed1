from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import ALL_SDES, GAUSSIAN, MIXTURE, close, golden, name_of, problems
from jax.sharding import NamedSharding, PartitionSpec

import score_sde as ss
from score_sde.samplers import SAMPLERS
from score_sde.samplers.ancestral import ancestral_levels

grids = ss.grids
CASES, ARRAYS = golden("k_diffusion")
EDM_CASES, EDM_ARRAYS = golden("edm")
KARRAS = partial(grids.karras, sigma_min=0.002, sigma_max=80.0)

# Every registered sampler, and each with its noise switched on, where it has any.
VARIANTS = {name: make() for name, make in SAMPLERS.items()}
VARIANTS |= {
    f"{name} with churn": make(s_churn=20.0, s_tmin=0.05, s_tmax=50.0, s_noise=1.003)
    for name, make in SAMPLERS.items()
    if "s_churn" in vars(make())
}
VARIANTS |= {
    "ddim with noise": SAMPLERS["ddim"](eta=0.5),
    "ddpm fixed_large": SAMPLERS["ddpm"](variance="fixed_large"),
    "dpm_solver_2 sde": SAMPLERS["dpm_solver_2"](algorithm_type="sde-dpmsolver++"),
    "dpm_solver_3 singlestep": SAMPLERS["dpm_solver_3"](
        method="singlestep", lower_order_final=False
    ),
    "unipc 3": SAMPLERS["unipc"](order=3, lower_order_final=False),
    "predictor_corrector subvp": SAMPLERS["predictor_corrector"](
        sde=ss.SubVP(), predictor="euler_maruyama", corrector="ald"
    ),
}
# Its own tests are in test_samplers_chain: it takes steps of its own.
ADAPTIVE = {"adaptive_sde"}
# Langevin steps have a law of their own, and step sizes by norms one in few dimensions.
OTHER_LAW = {"langevin", "predictor_corrector"}


def over(left_out):
    chosen = {name: s for name, s in VARIANTS.items() if name not in left_out}
    return pytest.mark.parametrize("sampler", chosen.values(), ids=chosen)


sweep = over(ADAPTIVE)
sweep_laws = over(ADAPTIVE | OTHER_LAW)

ORDERS = {"euler": 1, "heun": 2, "edm": 2}


def start(key, sigmas, num=500, dims=4):
    return sigmas[0] * jr.normal(key, (num, dims))


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


@pytest.mark.parametrize("name", sorted(grids.GRIDS.keys() - {"vp", "ddpm"}))
def test_grids_fall_from_sigma_max_to_sigma_min_and_zero(name):
    sde = ss.VE()
    options = {"sde": sde} if name == "uniform_time" else {}
    if not options:
        options = {"sigma_min": 0.01, "sigma_max": 50.0}
    sigmas = np.asarray(grids.GRIDS[name](10, **options))
    assert sigmas.shape == (11,)
    np.testing.assert_allclose(sigmas[[0, -2, -1]], [50.0, 0.01, 0.0], rtol=1e-4)
    assert (np.diff(sigmas) < 0).all()


# Against the published programs, number for number.


@pytest.mark.parametrize(
    "case",
    of("kd.sample_euler") + of("kd.sample_heun") + of("kd.sample_euler_ancestral"),
    ids=lambda c: c["id"],
)
def test_samplers_are_those_of_a_peer(case):
    given = {k: ARRAYS[v[1:]] if str(v)[0] == "@" else v for k, v in case["in"].items()}
    names = ("eta", "s_churn", "s_tmin", "s_tmax", "s_noise")
    options = {k: float(given[k]) for k in names if k in given}
    make = SAMPLERS[case["function"].removeprefix("kd.sample_")]
    out = ss.sample(
        make(**options),
        problems()[case["problem"]].denoise,
        jnp.asarray(given["x_T"]),
        jnp.asarray(given["sigmas"]),
        noise=given.get("noise"),
        key=None if "noise" in given else jr.key(0),
    )
    assert out.num_evals == case["out"]["nfe"]
    assert close(out.x, ARRAYS[case["out"]["x"][1:]], case["tol"]["x"]["f64"])


@pytest.mark.parametrize(
    "case",
    [c for c in EDM_CASES if c["function"] == "edm.edm_sampler"],
    ids=lambda c: c["id"],
)
def test_edm_is_its_authors_sampler(case):
    given = case["in"]
    sigmas = grids.karras(
        given["num_steps"],
        sigma_min=given["sigma_min"],
        sigma_max=given["sigma_max"],
        rho=given["rho"],
    )
    latents = jnp.asarray(EDM_ARRAYS[given["latents"][1:]])
    oracle = problems()[case["problem"]]
    out = ss.sample("edm", oracle.denoise, sigmas[0] * latents, sigmas)
    assert out.num_evals == case["out"]["nfe"]
    expected = EDM_ARRAYS[case["out"]["x"][1:]]
    assert close(out.x, expected, case["tol"]["x"]["f64"])


def test_ancestral_levels_are_those_of_a_peer():
    (case,) = of("kd.ancestral_step")
    levels = (jnp.asarray(ARRAYS[v[1:]]) for v in case["in"].values())
    down, up = ancestral_levels(*levels)
    for name, value in (("sigma_down", down), ("sigma_up", up)):
        expected = ARRAYS[case["out"][name][1:]]
        assert close(value, expected, case["tol"][name]["f64"])


@pytest.mark.parametrize("case", of("kd.output_law"), ids=lambda c: c["id"])
def test_ancestral_samples_have_the_exact_law_of_the_algorithm(case, key):
    """Its Gaussian output on Gaussian data, known without sampling."""
    sigmas = jnp.asarray(ARRAYS[case["in"]["sigmas"][1:]])
    sampler = SAMPLERS["euler_ancestral"](eta=case["in"]["eta"])
    x = start(key, sigmas, num=200_000)
    out = ss.sample(sampler, GAUSSIAN.denoise, x, sigmas, key=jr.key(1)).x
    mean, covariance = (ARRAYS[case["out"][k][1:]] for k in ("mean", "cov"))
    scale = np.sqrt(np.diag(covariance))
    # Five standard errors from 200,000 draws.
    assert (np.abs(out.mean(0) - mean) < 5 * scale / np.sqrt(200_000)).all()
    bound = 5 * np.sqrt(2 / 200_000) * np.outer(scale, scale)
    assert (np.abs(np.cov(out.T) - covariance) < bound).all()


# Orders of convergence.


def errors_of(name, make_grid, key):
    """Largest error of the flow map from sigmas[0] to the last level above zero."""
    errors = []
    for num_steps in (80, 160):
        sigmas = make_grid(num_steps)[:-1]
        x = start(key, sigmas, num=20)
        out = ss.sample(name, GAUSSIAN.denoise, x, sigmas)
        errors.append(np.abs(out.x - GAUSSIAN.flow(x, sigmas[0], sigmas[-1])).max())
    return errors


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("sde", ALL_SDES, ids=name_of)
def test_observed_order_on_the_grid_of_every_sde(name, sde, key):
    """Half the steps, 2^order times the error: times even in sigma^(1/3) of the SDE.

    Levels from 0.05 to 5, where errors are far above rounding; uniform_time itself
    starts from a level too coarse to show an order at few steps.
    """
    low, high = sde.t_from_sigma(0.05), sde.t_from_sigma(5.0)

    def grid(num_steps):
        times = jnp.linspace(high ** (1 / 3), low ** (1 / 3), num_steps) ** 3
        return jnp.append(sde.sigma(times), 0.0)

    coarse, fine = errors_of(name, grid, key)
    assert np.log2(coarse / fine) == pytest.approx(ORDERS[name], abs=0.2)


@pytest.mark.parametrize("name", ORDERS)
def test_observed_order_on_the_karras_grid(name, key):
    coarse, fine = errors_of(name, KARRAS, key)
    assert np.log2(coarse / fine) == pytest.approx(ORDERS[name], abs=0.2)


# Properties of all.


@sweep_laws
def test_samples_have_the_moments_of_the_data(sampler, key):
    sigmas = KARRAS(200)
    x = start(key, sigmas, num=40_000)
    out = ss.sample(sampler, GAUSSIAN.denoise, x, sigmas, key=jr.key(1)).x
    covariance = np.asarray(GAUSSIAN.covariance())
    scale = np.sqrt(np.diag(covariance))
    # Five standard errors from 40,000 draws, and 2 % for the steps of Euler (measured
    # bias at 200 steps: 1.2 %) and for the inflation of noise by s_noise.
    error = 5 * scale / np.sqrt(40_000) + 0.02 * scale
    assert (np.abs(out.mean(0) - GAUSSIAN.mean()) < error).all()
    bound = (5 * np.sqrt(2 / 40_000) + 0.04) * np.outer(scale, scale)
    assert (np.abs(np.cov(out.T) - covariance) < bound).all()


@sweep_laws
def test_samples_of_a_mixture_have_its_proportions(sampler, key):
    sigmas = KARRAS(60)
    x = start(key, sigmas, num=20_000, dims=2)
    out = ss.sample(sampler, MIXTURE.denoise, x, sigmas, key=jr.key(1)).x
    component = np.argmax(MIXTURE.log_joint(out, 0.05), axis=1)
    share = np.bincount(component, minlength=3) / 20_000
    weights = np.asarray(MIXTURE.weights)
    # Five standard errors, and 1 % for the steps.
    error = 5 * np.sqrt(weights * (1 - weights) / 20_000) + 0.01
    assert (np.abs(share - weights) < error).all()


@sweep
def test_evaluations_are_counted_exactly(sampler, key):
    calls = []

    def denoise(x, sigma, cond=None):
        jax.debug.callback(lambda: calls.append(1))
        return GAUSSIAN.denoise(x, sigma)

    for sigmas in (KARRAS(7), KARRAS(7)[:-1]):
        calls.clear()
        x = start(key, sigmas, num=3)
        out = jax.jit(lambda x, s: ss.sample(sampler, denoise, x, s, key=key))(
            x, sigmas
        )
        jax.block_until_ready(out)
        jax.effects_barrier()
        assert out.num_evals == len(calls)


@sweep
def test_a_sample_does_not_depend_on_batch_or_devices(sampler, key):
    sigmas = KARRAS(5)
    x = start(key, sigmas, num=8)

    @jax.jit
    def draw(x):
        return ss.sample(sampler, GAUSSIAN.denoise, x, sigmas, key=jr.key(1)).x

    whole = draw(x)
    np.testing.assert_allclose(draw(x[:3]), whole[:3], rtol=0, atol=1e-12)
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    # Sums of order one round differently on other devices.
    np.testing.assert_allclose(draw(sharded), whole, rtol=0, atol=1e-12)


@sweep
def test_the_path_leads_from_start_to_sample(sampler, key):
    sigmas = KARRAS(5)
    x = start(key, sigmas, num=2)
    draw = partial(ss.sample, sampler, GAUSSIAN.denoise, x, key=key, return_path=True)
    out = draw(sigmas)
    assert out.path.shape == (6, 2, 4)
    np.testing.assert_array_equal(out.path[0], x)
    np.testing.assert_array_equal(out.path[-1], out.x)
    # Progressive generation: the first prediction is that of the starting point.
    assert out.denoised.shape == (5, 2, 4)
    if not sampler.stochastic:
        first = GAUSSIAN.denoise(x, sigmas[0])
        np.testing.assert_allclose(out.denoised[0], first, rtol=1e-12)
    # With lower orders at the end, a shorter grid is another method.
    if not sampler.stochastic and not getattr(sampler, "lower_order_final", False):
        np.testing.assert_allclose(out.path[3], draw(sigmas[:4]).x, rtol=1e-12)


@sweep
def test_samplers_work_under_grad_and_vmap_and_keep_float32(sampler, key):
    sigmas = KARRAS(5)
    x = start(key, sigmas, num=2)

    def draw(x, key):
        return ss.sample(sampler, GAUSSIAN.denoise, x, sigmas, key=key).x

    step = 1e-4
    ones = jnp.ones_like(x)
    forward, backward = (draw(x + s * ones, key).sum() for s in (step, -step))
    gradient = jax.grad(lambda x: draw(x, key).sum())(x).sum()
    assert float(gradient) == pytest.approx(
        float(forward - backward) / (2 * step), rel=1e-5
    )
    keys = jr.split(key, 3)
    mapped = jax.vmap(draw, in_axes=(None, 0))(x, keys)
    np.testing.assert_allclose(mapped[1], draw(x, keys[1]), rtol=1e-9)
    assert draw(x.astype(jnp.float32), key).dtype == jnp.float32


def test_conditions_reach_the_denoiser(key):
    def denoise(x, sigma, cond):
        return jnp.broadcast_to(cond[:, None], x.shape)

    labels = jnp.asarray([1.0, 2.0])
    out = ss.sample(
        "heun", denoise, start(key, KARRAS(4), num=2), KARRAS(4), cond=labels
    )
    np.testing.assert_allclose(out.x, [[1.0] * 4, [2.0] * 4], rtol=1e-9)


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


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            ("eular", KARRAS(3)),
            {},
            r"unknown sampler 'eular'; choose from \['adaptive_sde', 'ddim'",
        ),
        (("euler", KARRAS(3)[::-1]), {}, "sigmas must be finite and decrease"),
        (("euler", jnp.asarray([1.0, jnp.nan])), {}, "must be finite"),
        (("euler", jnp.asarray([1.0])), {}, "at least two"),
        (("euler", jnp.asarray([1.0, -1.0])), {}, "must not be negative"),
        (("euler_ancestral", KARRAS(3)), {}, "adds noise: give it a key"),
    ],
)
def test_bad_input_is_answered_before_any_step(arguments, options, message):
    name, sigmas = arguments
    with pytest.raises(ValueError, match=message):
        ss.sample(name, GAUSSIAN.denoise, jnp.ones((2, 4)), sigmas, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SAMPLERS["heun"](s_churn=-1.0),
        lambda: SAMPLERS["heun"](s_noise=float("nan")),
        lambda: SAMPLERS["euler"](s_tmin=2.0, s_tmax=1.0),
        lambda: SAMPLERS["euler_ancestral"](eta=-0.5),
    ],
)
def test_bad_options_are_refused(make):
    with pytest.raises(ValueError, match="needs"):
        make()
