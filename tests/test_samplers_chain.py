"""The discrete chains and their relatives, against other programs and known laws."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate
from cases import ALL_SDES, GAUSSIAN, MIXTURE, close, golden, name_of, problems

import score_sde as ss
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
    small, large = (
        SAMPLERS["ddpm"](variance=v) for v in ("fixed_small", "fixed_large")
    )
    del small, large
    posterior = (alpha(before) * before) ** 2 * (1 - (before / sigmas) ** 2)
    for name, value in (
        ("betas", betas),
        ("alphas_cumprod", alpha(sigmas) ** 2),
        ("posterior_variance", posterior),
    ):
        expected = array(OPENAI_ARRAYS, case["out"][name])
        assert close(value, expected, case["tol"][name]["f64"])


@of(DIFFUSERS, "diff.ddpm", "diff.ddim")
def test_timesteps_are_those_of_a_peer(case):
    given = case["in"]
    if "timesteps" not in case["out"]:
        pytest.skip("not recorded")
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
        ({"beta_schedule": "cosin"}, "beta_schedule is 'cosin'; choose from"),
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


@pytest.mark.parametrize("dtype", ["f64", "f32"])
@of(
    DIFFUSERS,
    "diff.ddpm",
    "diff.ddim",
    "diff.pndm",
    "diff.unipc",
    "diff.dpmsolver_multistep",
    "diff.dpmsolver_singlestep",
)
def test_samplers_are_those_of_diffusers(case, dtype):
    given = case["in"]
    if dtype == "f32" and (given["num_steps"] != 10 or case["problem"] != "gauss4"):
        pytest.skip("float32 for a subset")
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
    predictor = pc.PREDICTORS[given["predictor"]]
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
    """Which takes one step size for the batch, of the mean norms: here as an snr each."""
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
            # Per example the norms are those of x, which is scaled by its own alpha.
            snr = snr * of_means / (ratio * scale) * scale / scale
            snr = snr * jnp.ones_like(level)
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
