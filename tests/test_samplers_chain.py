"""The discrete chains and their relatives, against other programs and known laws."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate
from cases import (
    ALL_SDES,
    GAUSSIAN,
    MIXTURE,
    close,
    golden,
    name_of,
    problems,
    unless,
)

import score_sde as ss
from score_sde.arrays import expand_like
from score_sde.samplers import SAMPLERS, langevin, multistep, schedules
from score_sde.samplers import predictor_corrector as pc

grids = ss.grids
DIFFUSERS, DIFFUSERS_ARRAYS = golden("diffusers")
OPENAI, OPENAI_ARRAYS = golden("openai_diffusion")
ANCESTOR, ANCESTOR_ARRAYS = golden("predictor_corrector")
LADDER = schedules.levels(schedules.linear(1000))


def of(cases, *functions):
    chosen = [c for c in cases if c["function"] in functions]
    return pytest.mark.parametrize("case", chosen, ids=[c["id"] for c in chosen])


def array(arrays, value):
    return arrays[value[1:]]


def run(
    sampler, case, x, sigmas, noise, dtype=jnp.float64, wrap=lambda denoise: denoise
):
    """Op by op, which is quicker than a compilation for each case."""
    denoise = wrap(problems()[case["problem"]].denoise)
    with jax.disable_jit():
        out = ss.sample(
            sampler,
            denoise,
            jnp.asarray(x, dtype),
            jnp.asarray(sigmas, dtype),
            noise=noise,
        )
    assert out.x.dtype == dtype
    return out


def alpha(sigma):
    """Of the variance-preserving chain."""
    return 1 / np.sqrt(1 + sigma**2)


# Schedules and grids.


@of(DIFFUSERS, "diff.beta_schedule")
def test_schedules_are_those_of_a_peer(case):
    given = case["in"]
    kind = {"squaredcos_cap_v2": "cosine"}.get(given["kind"], given["kind"])
    make = schedules.BETA_SCHEDULES[kind]
    betas = make(given["num_train_timesteps"], given["beta_start"], given["beta_end"])
    for name, value in (
        ("betas", betas),
        ("alphas_cumprod", schedules.alphas_cumprod(betas)),
    ):
        expected = array(DIFFUSERS_ARRAYS, case["out"][name])
        assert close(value, expected, case["tol"][name]["f64"])


@of(OPENAI, "gd.beta_schedule")
def test_schedules_and_posteriors_are_those_of_another_peer(case):
    """Its linear schedule is scaled to the number of steps."""
    kind, num_steps = case["in"]["kind"], case["in"]["T"]
    scale = 1000 / num_steps
    betas = schedules.BETA_SCHEDULES[kind](num_steps, scale * 1e-4, scale * 0.02)
    sigmas = schedules.levels(betas)
    before = np.append(0.0, sigmas[:-1])
    posterior = (alpha(before) * before) ** 2 * (1 - (before / sigmas) ** 2)
    for name, value in (
        ("betas", betas),
        ("alphas_cumprod", alpha(sigmas) ** 2),
        ("posterior_variance", posterior),
    ):
        expected = array(OPENAI_ARRAYS, case["out"][name])
        assert close(value, expected, case["tol"][name]["f64"])


@of([c for c in DIFFUSERS if "timesteps" in c["out"]], "diff.ddpm", "diff.ddim")
def test_timesteps_are_those_of_a_peer(case):
    given = case["in"]
    space = schedules.TIMESTEP_SPACINGS[given["timestep_spacing"]]
    timesteps = space(given["num_steps"], 1000) + given.get("steps_offset", 0)
    expected = array(DIFFUSERS_ARRAYS, case["out"]["timesteps"])
    np.testing.assert_array_equal(timesteps, expected)


@of(OPENAI, "gd.space_timesteps")
def test_strided_chains_are_those_of_a_peer(case):
    (count,), length = case["in"]["sections"], case["in"]["T"]
    expected = array(OPENAI_ARRAYS, case["out"]["timesteps"])
    np.testing.assert_array_equal(schedules.linspace(count, length)[::-1], expected)


@pytest.mark.parametrize("schedule", schedules.BETA_SCHEDULES)
def test_a_whole_chain_has_the_levels_of_its_products(schedule):
    sigmas = np.asarray(grids.ddpm(50, beta_schedule=schedule, num_train_timesteps=50))
    abar = np.cumprod(1 - schedules.BETA_SCHEDULES[schedule](50))[::-1]
    np.testing.assert_allclose(sigmas[:-1] ** 2, (1 - abar) / abar, rtol=1e-9)
    assert sigmas[-1] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta_schedule": "cosin"}, "beta_schedule is 'cosin'; did you mean 'cosine'"),
        ({"timestep_spacing": "even"}, "timestep_spacing is 'even'; choose from"),
        ({"num_train_timesteps": 4}, "num_steps is 5; the chain has 4"),
        ({"steps_offset": 500}, "steps_offset is 500; it leads out of the chain"),
    ],
)
def test_bad_chains_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        grids.ddpm(5, **options)


# Against the published programs, number for number.


def peer_grid(case):
    """The levels that diffusers visits, the last one included."""
    given, num_steps = case["in"], case["in"]["num_steps"]
    if case["function"] in ("diff.ddpm", "diff.ddim", "diff.pndm"):
        sigmas = np.array(
            grids.ddpm(
                num_steps,
                timestep_spacing=given["timestep_spacing"],
                steps_offset=given.get("steps_offset", 0),
            )
        )
        # Without this the peer's last level is that of timestep 0, again.
        return sigmas if given.get("set_alpha_to_one", True) else sigmas[:-1]
    if given.get("timestep_spacing") == "leading":
        timesteps = (np.arange(num_steps + 1) * (1000 // (num_steps + 1)))[:0:-1]
    else:
        timesteps = schedules.linspace(num_steps + 1, 1000)[:-1]
    last = 0.0 if given["final_sigmas_type"] == "zero" else LADDER[0]
    return np.append(LADDER[timesteps], last)


def peer_sampler(case):
    given, function = case["in"], case["function"].removeprefix("diff.")
    if function == "ddpm":
        return SAMPLERS["ddpm"](variance=given["variance_type"])
    if function == "ddim":
        return SAMPLERS["ddim"](eta=given["eta"])
    if function == "pndm":
        return SAMPLERS["plms"]()
    if function == "unipc":
        return SAMPLERS["unipc"](
            order=given["solver_order"],
            solver_type=given["solver_type"],
            predict_x0=given["predict_x0"],
            lower_order_final=given["lower_order_final"],
            disable_corrector=tuple(given.get("disable_corrector", ())),
        )
    return SAMPLERS[f"dpm_solver_{given['solver_order']}"](
        algorithm_type=given["algorithm_type"],
        solver_type=given["solver_type"],
        method=function.removeprefix("dpmsolver_"),
        lower_order_final=given["lower_order_final"],
        euler_at_final=given.get("euler_at_final", False),
    )


def of_diffusers():
    """(case, type): all in float64, a subset in float32 too; the short are quick."""
    functions = ("ddpm", "ddim", "pndm", "unipc")
    functions += ("dpmsolver_multistep", "dpmsolver_singlestep")
    for case in DIFFUSERS:
        if case["function"].removeprefix("diff.") in functions:
            num_steps, chain = case["in"]["num_steps"], case["function"][5:8] == "dd"
            is_quick = num_steps == 5 or (num_steps == 10 and chain)
            marks = () if is_quick else pytest.mark.slow
            yield pytest.param(case, "f64", id=case["id"], marks=marks)
            if num_steps == 10 and case["problem"] == "gauss4":
                slow = pytest.mark.slow
                yield pytest.param(case, "f32", id=f"{case['id']}/f32", marks=slow)


@pytest.mark.parametrize(("case", "dtype"), list(of_diffusers()))
def test_samplers_are_those_of_diffusers(case, dtype):
    given = case["in"]
    sigmas, sampler = peer_grid(case), peer_sampler(case)
    x = array(DIFFUSERS_ARRAYS, given["x_T"]) / alpha(sigmas[0])
    noise = array(DIFFUSERS_ARRAYS, given["noise"]) if "noise" in given else None
    kind = jnp.float64 if dtype == "f64" else jnp.float32
    out = run(sampler, case, x, sigmas, noise, kind)
    expected = array(DIFFUSERS_ARRAYS, case["out"]["x"])
    tolerance = dict(case["tol"]["x"][dtype])
    if case["id"].startswith("ddpm") and "trailing" in case["id"]:
        # The peer's variance is at least 1e-20: noise of 1e-10 in the last step.
        tolerance["atol"] = max(tolerance["atol"], 4e-10)
    result = np.asarray(out.x, np.float64) * alpha(sigmas[-1])
    if case["id"].startswith("ddim") and "spacing_linspace" in case["id"]:
        # The peer steps to t - 1000 // 10, not to the next timestep of its table.
        assert not close(result, expected, tolerance)
        sigmas = np.append(LADDER[schedules.linspace(10, 1000)], 0.0)
        skipped = np.append(LADDER[schedules.linspace(10, 1000)[:-1] - 100], 0.0)
        result = stepped_elsewhere(case, x, sigmas[:-1], skipped)
        tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == "f32" else tolerance
    assert close(result, expected, tolerance)


DIFFUSERS_LAWS = [c for c in DIFFUSERS if c["function"] == "diff.output_law"]


def law_sampler(given):
    """(sampler, levels) of a case that names them in words."""
    num_steps = given["num_steps"]
    if given["sampler"] in ("ddpm", "ddim"):
        kind = {"ddpm": "variance_type", "ddim": "eta"}[given["sampler"]]
        option = {"ddpm": "variance", "ddim": "eta"}[given["sampler"]]
        sampler = SAMPLERS[given["sampler"]](**{option: given[kind]})
        return sampler, grids.ddpm(num_steps, timestep_spacing="leading")
    sampler = SAMPLERS[f"dpm_solver_{given['solver_order']}"](
        algorithm_type="sde-dpmsolver++", solver_type="midpoint"
    )
    timesteps = schedules.linspace(num_steps + 1, 1000)[:-1]
    return sampler, jnp.asarray(np.append(LADDER[timesteps], 0.0))


def has_the_law_of_diffusers(case, num):
    """Mean and covariance within four standard errors of the exact ones."""
    sampler, sigmas = law_sampler(case["in"])
    x = jr.normal(jr.key(0), (num, 4)) / alpha(sigmas[0])
    denoise = problems()["gauss4"].denoise
    out = jax.jit(lambda x: ss.sample(sampler, denoise, x, sigmas, key=jr.key(1)).x)(x)
    mean, covariance = (
        array(DIFFUSERS_ARRAYS, case["out"][k]) for k in ("mean", "cov")
    )
    variance = np.diag(covariance)
    assert (np.abs(out.mean(0) - mean) / np.sqrt(variance / num)).max() < 4
    spread = np.sqrt((np.outer(variance, variance) + covariance**2) / num)
    assert (np.abs(np.cov(out.T) - covariance) / spread).max() < 4


def test_samples_have_the_exact_law_of_diffusers():
    (case,) = (c for c in DIFFUSERS_LAWS if c["id"] == "law/ddpm/n50/fixed_large")
    has_the_law_of_diffusers(case, 10_000)


@pytest.mark.slow
@pytest.mark.parametrize("case", DIFFUSERS_LAWS, ids=lambda c: c["id"])
def test_many_samples_have_the_exact_law_of_diffusers(case):
    has_the_law_of_diffusers(case, 100_000)


def stepped_elsewhere(case, x, levels, targets):
    """DDIM whose steps end elsewhere than the next one begins (xt is passed on)."""
    denoise = problems()[case["problem"]].denoise
    for level, target, follower in zip(
        levels, targets, [*levels[1:], 0.0], strict=True
    ):
        pair = jnp.asarray([level, target])
        x = SAMPLERS["ddim"]().run(denoise, x, pair, None, return_path=False).x
        x = x * alpha(target) / alpha(follower)
    return np.asarray(x)


@of(OPENAI, "gd.sample_loop")
def test_chains_are_those_of_openai(case):
    given, arrays = case["in"], OPENAI_ARRAYS
    kept = (
        schedules.leading(20, 1000)
        if given["sections"] == "ddim20"
        else schedules.linspace(given["sections"][0], 1000)
    )
    sigmas = np.append(LADDER[kept], 0.0)
    if given["method"] == "ddim":
        sampler = SAMPLERS["ddim"](eta=given["eta"])
    elif given["var_type"] == "LEARNED_RANGE":
        v = jnp.asarray(array(arrays, given["var_values"]))[None]
        sampler = SAMPLERS["ddpm"](variance="learned", learned=lambda x, sigma: v)
    else:
        sampler = SAMPLERS["ddpm"](variance=given["var_type"].lower())

    def clipped(denoise):
        if not given["clip_denoised"]:
            return denoise
        return lambda x, sigma, cond=None: jnp.clip(denoise(x, sigma), -1, 1)

    x = array(arrays, given["x_T"]) / alpha(sigmas[0])
    noise = array(arrays, given["noise"])
    out = run(sampler, case, x, sigmas, noise, wrap=clipped)
    expected = array(arrays, case["out"]["x"])
    assert close(out.x, expected, case["tol"]["x"]["f64"])


def test_a_learned_variance_lies_between_the_fixed_ones(key):
    sigmas = grids.ddpm(6)
    x, noise = sigmas[0] * jr.normal(key, (3, 4)), jr.normal(jr.key(1), (6, 3, 4))
    draw = partial(ss.sample, denoise=GAUSSIAN.denoise, x=x, sigmas=sigmas, noise=noise)
    for v, variance in ((-1.0, "fixed_small"), (1.0, "fixed_large")):

        def learned(x, sigma, v=v):
            return jnp.full_like(x, v)

        ours = draw(SAMPLERS["ddpm"](variance="learned", learned=learned))
        fixed = draw(SAMPLERS["ddpm"](variance=variance))
        np.testing.assert_allclose(ours.x, fixed.x, rtol=1e-12)


def test_a_network_with_a_learned_variance_is_evaluated_once():
    """The compiler merges the two calls of one network on the same inputs."""
    matrix = jnp.eye(4)

    def network(x):
        return jnp.tanh(x @ matrix)

    def denoise(x, sigma, cond=None):
        return network(x)

    def products(sampler):
        draw = jax.jit(
            lambda x: ss.sample(sampler, denoise, x, grids.ddpm(3), key=jr.key(0)).x
        )
        text = draw.lower(jnp.ones((2, 4))).compile().as_text()
        return text.count("tanh(")

    learned = SAMPLERS["ddpm"](variance="learned", learned=lambda x, sigma: network(x))
    assert products(learned) == products(SAMPLERS["ddpm"]())


# The predictors and correctors of the ancestor.


def ancestor_sde(given):
    if given["sde"] == "ve":
        return ss.VE(sigma_min=given["sigma_min"], sigma_max=given["sigma_max"])
    make = {"vp": ss.VP, "subvp": ss.SubVP}[given["sde"]]
    return make(beta_min=given["beta_min"], beta_max=given["beta_max"])


def ancestor_levels(given):
    """(levels, scales) of the table that the ancestor steps along, ascending."""
    count = given["N"]
    if given["sde"] == "ve":
        ends = np.log(given["sigma_min"]), np.log(given["sigma_max"])
        levels = np.exp(np.linspace(*ends, count))
        return levels, np.ones(count)
    betas = np.linspace(given["beta_min"] / count, given["beta_max"] / count, count)
    levels = schedules.levels(betas)
    return levels, alpha(levels)


def at_another_time(oracle, sde, level, scale, t):
    """The denoiser that makes of the score at t a step of the table's level.

    The ancestor looks up its tables by t (N - 1), but the score at t itself, which is
    not quite the time of that level.
    """

    def denoise(x, sigma=None, cond=None):
        xt = scale * x
        return x + level**2 * scale * oracle.score(xt, jnp.asarray(t), sde=sde)

    return denoise


@of(ANCESTOR, "pc.predictor_step")
def test_predictors_are_those_of_the_ancestor(case):
    given, arrays = case["in"], ANCESTOR_ARRAYS
    oracle, sde = problems()[case["problem"]], ancestor_sde(given)
    xs, ts, zs = (array(arrays, given[k]) for k in ("x", "t", "z"))
    means = array(arrays, case["out"]["x_mean"])
    moved = array(arrays, case["out"]["x_next"])
    flows = given.get("probability_flow")
    predictor = pc.PREDICTORS["probability_flow" if flows else given["predictor"]]
    levels, scales = ancestor_levels(given)
    for xt, t, z, mean, x_next in zip(xs, ts, zs, means, moved, strict=True):
        if given["predictor"] == "euler_maruyama":
            t_next = t - 1 / given["N"]
            if t_next < 0:
                continue  # below any time of a VP process
            level, level_next = sde.sigma(t), sde.sigma(t_next)
            scale, scale_next = sde.alpha(t), sde.alpha(t_next)
        else:
            index = int(t * (given["N"] - 1))
            level, scale = levels[index], scales[index]
            level_next, scale_next = (
                (levels[index - 1], scales[index - 1]) if index else (0.0, 1.0)
            )
        x = jnp.asarray(xt)[None] / scale
        denoised = at_another_time(oracle, sde, level, scale, t)(x)
        predicted = predictor(
            sde, x, denoised, jnp.asarray(level), jnp.asarray(level_next)
        )
        ours = scale_next * predicted.mean[0]
        assert close(ours, mean, case["tol"]["x_mean"]["f64"])
        ours = scale_next * (predicted.mean[0] + predicted.std * z)
        assert close(ours, x_next, case["tol"]["x_next"]["f64"])


@of(ANCESTOR, "pc.corrector_step")
def test_correctors_are_those_of_the_ancestor(case):
    """Which takes one step size for a batch, of the mean norms: here an snr each."""
    given, arrays = case["in"], ANCESTOR_ARRAYS
    oracle, sde = problems()[case["problem"]], ancestor_sde(given)
    t, zs = (jnp.asarray(array(arrays, given[k])) for k in ("t", "z"))
    level, scale = sde.sigma(t), sde.alpha(t)
    x = jnp.asarray(array(arrays, given["x"])) / scale[:, None]
    a_squared = 1.0
    if given["sde"] == "vp":
        index = (t * (given["N"] - 1)).astype(int)
        betas = np.linspace(
            given["beta_min"] / given["N"], given["beta_max"] / given["N"], given["N"]
        )
        a_squared = jnp.asarray(1 - betas)[index]
    for z in zs[: given["n_steps"]]:
        denoised, snr = oracle.denoise(x, level), given["snr"]
        if given["corrector"] == "langevin":
            score = (denoised - x) / (scale * level**2)[:, None]
            ratio = jnp.linalg.norm(z, axis=1) / jnp.linalg.norm(score, axis=1)
            of_means = jnp.linalg.norm(z, axis=1).mean() / (
                jnp.linalg.norm(score, axis=1).mean()
            )
            snr = snr * of_means / ratio
        x, mean = langevin.langevin_step(
            x,
            denoised,
            z,
            sigma=level,
            snr=snr,
            step_size=langevin.STEP_SIZES[given["corrector"]],
            scale=a_squared,
        )
    for name, value in (("x_next", x), ("x_mean", mean)):
        expected = array(arrays, case["out"][name])
        assert close(scale[:, None] * value, expected, case["tol"][name]["f64"])


@of(ANCESTOR, "pc.sampler")
def test_predictors_alone_are_the_ancestors_sampler(case):
    given, arrays = case["in"], ANCESTOR_ARRAYS
    oracle, sde = problems()[case["problem"]], ancestor_sde(given)
    levels, scales = (jnp.asarray(a[::-1].copy()) for a in ancestor_levels(given))
    times = jnp.linspace(1.0, given["eps"], given["N"])

    def denoise(x, sigma, cond=None):
        index = jnp.argmin(jnp.abs(levels - sigma))
        return at_another_time(oracle, sde, sigma, scales[index], times[index])(x)

    if given["predictor"] == "ancestral_sampling" and given["sde"] == "vp":
        # With the variance beta, and without noise at the end: the DDPM chain.
        sampler = SAMPLERS["ddpm"](variance="fixed_large")
    else:
        sampler = SAMPLERS["predictor_corrector"](
            sde=sde,
            predictor=given["predictor"],
            corrector="none",
            denoise=given["denoise"],
        )
    x = jnp.asarray(array(arrays, given["x_T"])) / scales[0]
    noise = array(arrays, given["z"])
    draw = jax.jit(partial(ss.sample, sampler, denoise, noise=noise))
    out = draw(x, jnp.append(levels, 0.0))
    assert out.num_evals == case["out"]["n_noise"]
    expected = array(arrays, case["out"]["x"])
    assert close(out.x, expected, case["tol"]["x"]["f64"])


# Exponential integrators.


@pytest.mark.parametrize("rate", [1, 2])
@pytest.mark.parametrize("make", [multistep.for_data, multistep.for_noise])
def test_coefficients_are_the_integrals_of_the_reverse_process(make, rate):
    """Of polynomials in the passed log sigma, by quadrature over it."""
    sigma, sigma_next = jnp.asarray(3.0), jnp.asarray(0.7)
    carry, weights = make(sigma, sigma_next, 4, rate=rate)
    h = float(np.log(sigma / sigma_next))
    for k, weight in enumerate(weights):
        if make is multistep.for_data:
            expected_carry = np.exp(-rate * h)
            integrand = lambda s, k=k: rate * np.exp(-rate * (h - s)) * (s / h) ** k
        else:
            expected_carry = 1.0
            integrand = lambda s, k=k: -rate * 3.0 * np.exp(-s) * (s / h) ** k
        expected, _ = scipy.integrate.quad(integrand, 0, h, epsabs=1e-13)
        assert float(weight) == pytest.approx(expected, rel=1e-10)
        assert float(carry) == pytest.approx(expected_carry, rel=1e-12)


def test_phi_does_not_cancel_in_float32():
    z = np.concatenate([-np.geomspace(1e-6, 8, 60), np.geomspace(1e-6, 8, 60)])
    for k in (1, 2, 3, 4):
        ours = multistep.phi(k, jnp.asarray(z, jnp.float32))
        exact = [
            scipy.integrate.quad(
                lambda u, z=z, k=k: np.exp(z * (1 - u)) * u ** (k - 1), 0, 1
            )[0]
            for z in np.float64(np.float32(z))
        ]
        exact = np.asarray(exact) / float(np.prod(np.arange(1, k)))
        # Rounding of float32, times 4! where the recursion divides by z near 1.
        np.testing.assert_allclose(ours, exact, rtol=3e-6)


def log_grid(num_steps):
    return jnp.exp(jnp.linspace(jnp.log(300.0), jnp.log(0.05), num_steps + 1))


def even_grid(num_steps):
    return jnp.linspace(5.0, 0.5, num_steps + 1)


def orders():
    """(id, sampler, published order, grid), of every deterministic option."""
    yield "ddim", SAMPLERS["ddim"](), 1, log_grid
    # Adams and Bashforth's four weights are for even steps.
    yield "plms", SAMPLERS["plms"](), 4, even_grid
    for order in (1, 2, 3, 4):
        yield f"deis {order}", SAMPLERS["deis"](order=order), order, log_grid
    full = {"lower_order_final": False}
    for order in (1, 2, 3):
        # The corrector adds an order.
        unipc = SAMPLERS["unipc"](order=order, **full)
        yield f"unipc {order}", unipc, order + 1, log_grid
    noise = SAMPLERS["unipc"](solver_type="bh1", predict_x0=False, **full)
    yield "unipc bh1 of noise", noise, 3, log_grid
    for order in (1, 2, 3):
        make = SAMPLERS[f"dpm_solver_{order}"]
        # The published third-order multistep method is of second order.
        yield f"dpm_solver_{order}", make(**full), min(order, 2), log_grid
        options = {"algorithm_type": "dpmsolver", "solver_type": "heun", **full}
        sampler = make(method="singlestep", **options)
        yield f"dpm_solver_{order} singlestep", sampler, order, log_grid
        sampler = make(method="singlestep", **full)
        yield f"dpm_solver_{order} singlestep of x0", sampler, order, log_grid


ORDERS = list(orders())


HIGHEST = ("plms", "deis 3", "unipc 2", "dpm_solver_3 singlestep")


@pytest.mark.parametrize(
    "case",
    unless(lambda case: case[0] in HIGHEST, ORDERS),
    ids=[c[0] for c in ORDERS],
)
def test_observed_order_is_the_published_one(case, key):
    """On a grid that starts where the flow is straight: there the first steps of a
    multistep method, which are of lower order, cost nothing. Steps in multiples of the
    groups of a singlestep method."""
    _, sampler, order, grid = case
    errors = []
    for num_steps in (120, 240):
        sigmas = grid(num_steps)
        x = sigmas[0] * jr.normal(key, (10, 4))
        draw = jax.jit(partial(ss.sample, sampler, GAUSSIAN.denoise))
        out = draw(x, sigmas)
        errors.append(np.abs(out.x - GAUSSIAN.flow(x, sigmas[0], sigmas[-1])).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


# Laws.


def test_annealed_langevin_has_the_law_of_its_recursion(key):
    """On Gaussian data a step is affine: mean and covariance are known exactly."""
    sigmas = jnp.asarray([4.0, 2.0, 1.0, 0.5, 0.0])
    sampler = SAMPLERS["langevin"](snr=0.3, n_steps=5)
    num = 100_000
    x = sigmas[0] * jr.normal(key, (num, 4))
    out = jax.jit(partial(ss.sample, sampler, GAUSSIAN.denoise))(
        x, sigmas, key=jr.key(1)
    )
    data_mean, data_covariance = GAUSSIAN.mean(), np.asarray(GAUSSIAN.covariance())
    mean, covariance = np.zeros(4), 16.0 * np.eye(4)
    for level in (2.0, 1.0, 0.5):
        precision = np.linalg.inv(data_covariance + level**2 * np.eye(4))
        e = 2 * (0.3 * level) ** 2
        for _ in range(5):
            matrix = np.eye(4) - e * precision
            mean = data_mean + matrix @ (mean - data_mean)
            covariance = matrix @ covariance @ matrix.T + 2 * e * np.eye(4)
    shrink = data_covariance @ np.linalg.inv(data_covariance + 0.25 * np.eye(4))
    mean = data_mean + shrink @ (mean - data_mean)
    covariance = shrink @ covariance @ shrink.T
    scale = np.sqrt(np.diag(covariance))
    # Five standard errors.
    assert (np.abs(out.x.mean(0) - mean) < 5 * scale / np.sqrt(num)).all()
    bound = 5 * np.sqrt(2 / num) * np.outer(scale, scale)
    assert (np.abs(np.cov(out.x.T) - covariance) < bound).all()


def test_a_langevin_step_by_norms_is_the_annealed_one_in_many_dimensions(key):
    """Far from the data the score is noise over sigma: |score| = sqrt(d) / sigma."""
    x, z = 10.0 * jr.normal(key, (3, 100_000)), jr.normal(jr.key(1), (3, 100_000))
    score = -x / 100.0
    by_norms, by_level = (
        langevin.STEP_SIZES[name](score, z, 10.0, 0.16) for name in ("langevin", "ald")
    )
    # Norms of 100,000 numbers vary by 0.3 %, and enter squared.
    np.testing.assert_allclose(by_norms, by_level, rtol=0.03)


@pytest.mark.parametrize("predictor", pc.PREDICTORS)
@pytest.mark.parametrize("sde", ALL_SDES, ids=name_of)
def test_predictors_of_every_sde_step_along_its_reverse_process(sde, predictor, key):
    """The mean of a short step is that of the reverse SDE: -2 (D - x) in log sigma.

    A step of the flow has half of it, and no noise.
    """
    rate = 1 if predictor in pc.DETERMINISTIC else 2
    t = sde.t_from_sigma(jnp.asarray(0.8))
    gaps = []
    for dt in (1e-3, 1e-4):
        sigma, sigma_next = sde.sigma(t), sde.sigma(t * (1 - dt))
        x = jr.normal(key, (2, 4))
        denoised = GAUSSIAN.denoise(x, sigma)
        mean, std = pc.PREDICTORS[predictor](sde, x, denoised, sigma, sigma_next)
        passed = jnp.log(sigma / sigma_next)
        drift, level = (mean - x) / passed, std / jnp.sqrt(passed)
        gaps.append(
            max(
                float(jnp.abs(drift - rate * (denoised - x)).max()),
                float(jnp.abs(level - np.sqrt(2 * (rate - 1)) * sigma)),
            )
        )
    # An error of first order: a tenth of the step, a tenth of the gap; or rounding.
    assert gaps[1] < 0.11 * gaps[0] + 1e-9


@pytest.mark.parametrize("corrector", unless("ald".__eq__, ["none", "ald"]))
def test_correctors_keep_the_law(corrector, key):
    """Not so the step size by norms, in two dimensions; see its docstring."""
    sigmas = grids.karras(60, sigma_min=0.01, sigma_max=50.0)
    sampler = SAMPLERS["predictor_corrector"](
        predictor="ancestral_sampling", corrector=corrector, snr=0.1, sde=ss.SubVP()
    )
    x = sigmas[0] * jr.normal(key, (20_000, 2))
    out = jax.jit(partial(ss.sample, sampler, MIXTURE.denoise))(
        x, sigmas, key=jr.key(1)
    )
    share = np.bincount(np.argmax(MIXTURE.log_joint(out.x, 0.05), axis=1), minlength=3)
    weights = np.asarray(MIXTURE.weights)
    # Five standard errors, and 2 % for the steps.
    error = 5 * np.sqrt(weights * (1 - weights) / 20_000) + 0.02
    assert (np.abs(share / 20_000 - weights) < error).all()


# The adaptive sampler.


def isotropic(x, sigma, cond=None):
    """The denoiser of N(0.5, 0.2^2), at a level for each example."""
    level = jnp.broadcast_to(jnp.asarray(sigma), x.shape[:1])[:, None]
    return 0.5 + 0.04 / (0.04 + level**2) * (x - 0.5)


def adaptive(sampler, x, sigmas):
    draw = jax.jit(partial(ss.sample, sampler, isotropic, key=jr.key(1)))
    return draw(x, sigmas)


@pytest.mark.slow
def test_the_adaptive_sampler_has_the_right_law_and_fewer_steps_where_it_may(key):
    sigmas = jnp.asarray([10.0, 0.01, 0.0])
    x = sigmas[0] * jr.normal(key, (80, 64))
    evals = []
    for rtol, atol in ((0.05, 0.0078), (0.02, 0.004)):
        sampler = SAMPLERS["adaptive_sde"](rtol=rtol, atol=atol)
        out = adaptive(sampler, x, sigmas)
        assert out.success.all()
        steps = out.num_accepted + out.num_rejected
        np.testing.assert_array_equal(out.num_evals, 2 * steps + 1)
        evals.append(float(out.num_evals.mean()))
        # Five standard errors of 5,120 draws, and 2 % of the spread for the tolerance.
        assert abs(float(out.x.mean()) - 0.5) < 0.2 * (5 / np.sqrt(5_120) + 0.02)
        spread = 5 / np.sqrt(10_240) + 0.02
        assert float(out.x.std()) == pytest.approx(0.2, rel=spread)
    assert evals[0] < 0.7 * evals[1]


@pytest.mark.slow
def test_steps_that_were_taken_back_leave_no_trace_in_one_dimension(key):
    """Drawn anew, they made the spread 1.8 times too large."""
    sigmas = jnp.asarray([10.0, 0.01, 0.0])
    out = adaptive(SAMPLERS["adaptive_sde"](), 10 * jr.normal(key, (2_000, 1)), sigmas)
    assert out.num_rejected.mean() > 10
    # Five standard errors, and 2 % of the spread for the tolerance.
    assert abs(float(out.x.mean()) - 0.5) < 0.2 * (5 / np.sqrt(2_000) + 0.02)
    assert float(out.x.std()) == pytest.approx(0.2, rel=5 / np.sqrt(4_000) + 0.02)


def test_adaptive_evaluations_are_counted_exactly(key):
    calls = []

    def denoise(x, sigma, cond=None):
        jax.debug.callback(lambda: calls.append(1))
        return isotropic(x, sigma)

    sigmas = jnp.asarray([10.0, 0.1])
    x = sigmas[0] * jr.normal(key, (3, 8))
    out = jax.jit(partial(ss.sample, "adaptive_sde", denoise, key=key))(x, sigmas)
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert len(calls) == out.num_evals.max()


def test_an_example_that_fails_leaves_the_others_alone(key):
    sigmas = jnp.asarray([10.0, 0.01, 0.0])
    x = sigmas[0] * jr.normal(key, (4, 8))
    sampler = SAMPLERS["adaptive_sde"]()
    whole = adaptive(sampler, x, sigmas)
    broken = adaptive(sampler, x.at[2].set(jnp.nan), sigmas)
    np.testing.assert_array_equal(broken.success, [True, True, False, True])
    assert np.isnan(broken.x[2]).all()
    kept = np.asarray([0, 1, 3])
    np.testing.assert_allclose(broken.x[kept], whole.x[kept], rtol=1e-12)
    alone = adaptive(sampler, x[:1], sigmas)
    np.testing.assert_allclose(alone.x, whole.x[:1], rtol=1e-9)
    hurried = adaptive(SAMPLERS["adaptive_sde"](max_steps=3), x, sigmas)
    assert not hurried.success.any()
    assert np.isnan(hurried.x).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_adaptive_steps_do_not_depend_on_the_batch(dtype, key):
    """Though its norms round otherwise, and the path is rough."""
    sigmas = jnp.asarray([10.0, 0.1], dtype)

    def denoise(x, sigma, cond=None):
        return jnp.tanh(x) / (1 + expand_like(sigma, x))

    x, keys = sigmas[0] * jr.normal(key, (16, 6), dtype), jr.split(key, 16)
    draw = jax.jit(
        lambda x, keys: ss.sample("adaptive_sde", denoise, x, sigmas, key=keys)
    )
    whole, alone = draw(x, keys), draw(x[3:4], keys[3:4])
    assert alone.num_evals[0] == whole.num_evals[3]
    # A hundred steps of rounding.
    tolerance = 1e3 * jnp.finfo(dtype).eps
    np.testing.assert_allclose(alone.x[0], whole.x[3], rtol=tolerance, atol=tolerance)


# Conversions.


@pytest.mark.parametrize("sde", ALL_SDES, ids=name_of)
def test_a_network_of_one_sde_is_sampled_under_any_other(sde, key):
    """The denoiser of a VP network that predicts noise, and the score it has there.

    DDIM's step in xt of the other SDE, written with the noise that the score gives.
    """

    def network(x, noise, cond=None):
        return jnp.tanh(x) * noise[:, None]

    denoise = ss.make_denoiser(network, ss.precondition.vp)
    score = ss.make_score(denoise, sde)
    sigmas = jnp.asarray([3.0, 1.0, 0.3])
    times = sde.t_from_sigma(sigmas)
    x = sigmas[0] * jr.normal(key, (3, 4))
    xt = sde.alpha(times[0]) * x
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        eps = -sde.std(t) * score(xt, t)
        x0 = (xt - sde.std(t) * eps) / sde.alpha(t)
        xt = sde.alpha(t_next) * x0 + sde.std(t_next) * eps
    ours = ss.sample("ddim", denoise, x, sigmas).x
    np.testing.assert_allclose(ours, xt / sde.alpha(times[-1]), rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ddim", {"eta": 1.5}, "eta is 1.5; it must be from 0 to 1"),
        ("ddpm", {"variance": "large"}, "variance is 'large'; did you mean"),
        (
            "ddpm",
            {"learned": lambda x, sigma: x},
            "DDPM needs a function `learned`",
        ),
        ("unipc", {"order": 4}, "order is 4; it must be from 1 to 3"),
        ("unipc", {"solver_type": "heun"}, "'heun'; choose from ['bh1', 'bh2']"),
        ("deis", {"order": 0}, "order is 0; it must be from 1 to 4"),
        ("dpm_solver_2", {"algorithm_type": "ddim"}, "choose from ['dpmsolver', "),
        (
            "dpm_solver_2",
            {"method": "singlestep", "algorithm_type": "sde-dpmsolver++"},
            "DPMSolver2 needs method 'multistep' for the reverse SDE",
        ),
        ("langevin", {"step_size": "norm"}, "choose from ['ald', 'langevin']"),
        ("langevin", {"n_steps": 0}, "n_steps is 0; it must be >= 1"),
        ("predictor_corrector", {"predictor": "heun"}, "predictor is 'heun'; choose"),
        ("predictor_corrector", {"corrector": "heun"}, "corrector is 'heun'; choose"),
        ("predictor_corrector", {"snr": -1.0}, "snr is -1.0; it must be > 0"),
        ("adaptive_sde", {"atol": 0.0}, "atol is 0.0; it must be > 0"),
        ("adaptive_sde", {"max_factor": 1.0}, "max_factor is 1.0; it must be > 1"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SAMPLERS[name](**options)


def test_a_sampler_says_what_must_be_bound_before_it_draws():
    def sampled(sampler):
        x, sigmas = jnp.ones((1, 2)), jnp.asarray([1.0, 0.5, 0.0])
        still = lambda x, sigma, cond=None: x
        return ss.sample(sampler, still, x, sigmas, key=jr.key(0)).x

    for make in SAMPLERS.values():
        assert make().wants == ()
        assert make().bind(variance=None) == make()
    learned = SAMPLERS["ddpm"](variance="learned")
    assert learned.wants == ("variance",)
    with pytest.raises(ValueError, match="needs a function `learned`"):
        sampled(learned)
    bound = learned.bind(variance=lambda x, sigma: jnp.ones_like(x))
    assert bound.wants == ()
    large = sampled(SAMPLERS["ddpm"](variance="fixed_large"))
    np.testing.assert_allclose(sampled(bound), large, rtol=1e-12)
