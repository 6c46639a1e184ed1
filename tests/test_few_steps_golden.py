"""Losses, targets and samplers of few-step models against the published programs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import GAUSSIAN, MIXTURE, close, golden, problems_file

import score_sde as ss
from score_sde import losses, precondition
from score_sde.arrays import as_float
from score_sde.flow_map import FlowMap, carry
from score_sde.losses import consistency, flow_maps, pairs, trigflow
from score_sde.losses.distances import absolute, pseudo_huber, squared
from score_sde.losses.weights import edm as edm_weight

CASES, ARRAYS = golden("few_steps")
TOYS = problems_file()["toy"]
ORACLES = {"gmm2": MIXTURE, "gauss4": GAUSSIAN}


def of(*functions):
    found = [c for c in CASES if c["function"] in functions]
    assert found
    return pytest.mark.parametrize("case", found, ids=lambda c: c["id"])


def given(case, side="in"):
    return {
        k: jnp.asarray(ARRAYS[v[1:]]) if str(v)[:1] == "@" else v
        for k, v in case[side].items()
    }


def agree(case, **found):
    expected = given(case, "out")
    for name, value in found.items():
        tolerance = case["tol"][name].get("f64", {"rtol": 0, "atol": 0})
        assert close(value, expected[name], tolerance), (
            case["id"],
            name,
            np.abs(np.asarray(value) - np.asarray(expected[name])).max(),
        )


def toy(case, *, second=False):
    """The raw network of the cases: tanh(u W + b n), or + c m too."""
    w, b, c = (jnp.asarray(TOYS[case["problem"]][k])[None] for k in "Wbc")
    if second:
        return lambda u, n, m: jnp.tanh(u @ w[0] + n[:, None] * b + m[:, None] * c)
    return lambda u, n, cond=None: jnp.tanh(u @ w[0] + n[:, None] * b)


def cm_scalings(inputs):
    return lambda sigma: precondition.consistency(
        sigma, sigma_data=inputs["sigma_data"], sigma_min=inputs["sigma_min"]
    )


def ladder_of(inputs):
    return pairs.Ladder(inputs["sigma_min"], inputs["sigma_max"], inputs["rho"])


def cm_weight(kind, sigma_data=0.5):
    return {
        "snr": losses.noise,
        "snr+1": lambda s: edm_weight(s, sigma_data=1.0),
        "karras": lambda s: edm_weight(s, sigma_data=sigma_data),
        "truncated-snr": losses.truncated_snr,
        "uniform": losses.uniform,
    }[kind]


@of("flow_map.map")
def test_exact_flows(case):
    inputs, oracle = given(case), ORACLES[case["problem"]]
    high, low = inputs["sigma"], inputs["sigma_next"]
    end = oracle.flow(inputs["x"], high, low)
    agree(case, x=end, velocity_start=-high * oracle.score(inputs["x"], high))
    jumped = carry(oracle.jump, inputs["x"], high, low)
    assert close(jumped, end, {"rtol": 1e-9, "atol": 1e-10})


@of("flow_map.average_velocity")
def test_exact_average_velocity(case):
    inputs, oracle = given(case), ORACLES[case["problem"]]
    t, r = (jnp.full(len(inputs["z"]), inputs[k]) for k in "tr")
    u = flow_maps.average_velocity(oracle.jump)
    found = u(inputs["z"], t, r)
    z_r = inputs["z"] - (inputs["t"] - inputs["r"]) * found
    agree(case, u=found, z_r=z_r, velocity=u(inputs["z"], t, t))


@of("cm.scalings")
def test_scalings(case):
    inputs = given(case)
    plain = precondition.edm(inputs["sigma"], sigma_data=inputs["sigma_data"])
    c = cm_scalings(inputs)(inputs["sigma"])
    agree(case, edm_skip=plain.skip, edm_out=plain.out, edm_in=plain.in_)
    agree(case, skip=c.skip, out=c.out, in_=c.in_)


@of("cm.weighting")
def test_weights(case):
    inputs = given(case)
    weight = cm_weight(inputs["kind"], inputs["sigma_data"])
    agree(case, weight=weight(inputs["sigma"]))


@of("cm.schedule")
def test_schedules_of_consistency_models(case):
    inputs = given(case)
    step, first = inputs["step"], inputs["start_scales"]
    if inputs["scale_mode"] == "progressive":
        found = pairs.growing_levels(
            step, inputs["total_steps"], first=first, last=inputs["end_scales"]
        )
        decay = jnp.full(len(step), inputs["start_ema"])
        if inputs["target_ema_mode"] == "adaptive":
            decay = pairs.target_decay(found, first=first, start=inputs["start_ema"])
    else:
        units = math.log2(first) - 1 + 4
        total = round(units * inputs["distill_steps_per_iter"])
        found = jax.vmap(lambda k: pairs.halving_steps(k, total, first=first))(step)
        decay = jnp.ones(len(step))
    agree(case, num_scales=found, target_ema=decay)


@of("cm.consistency_loss")
def test_consistency_loss(case):
    inputs = given(case)
    high, low = ladder_of(inputs).pair(inputs["index"], inputs["num_scales"])
    raw, scalings = toy(case), cm_scalings(inputs)
    student = ss.make_jump(raw, scalings)
    target = ss.make_jump(lambda u, n, cond: 0.9 * raw(u, n + 0.05), scalings)
    x0, eps = inputs["x0"], inputs["noise"]
    teacher = ORACLES[case["problem"]].denoise if inputs["teacher"] else None
    loss = consistency.consistency_loss(
        student,
        target,
        x0,
        eps,
        high,
        low,
        distance=squared,
        weight=consistency.of_upper(
            cm_weight(inputs["weight_schedule"], inputs["sigma_data"])
        ),
        teacher=teacher,
    )
    x = x0 + high[:, None] * eps
    agree(case, t=high, t2=low, x_t=x, loss=loss)
    agree(case, prediction=student(x, high, 0.0))


@of("cm.progdist_loss")
def test_progressive_distillation_in_sigma(case):
    inputs, ladder = given(case), ladder_of(given(case))
    oracle = ORACLES[case["problem"]]
    high, middle, low = (
        ladder.level((as_float(inputs["index"]) + a) / inputs["num_scales"])
        for a in (0, 0.5, 1)
    )
    x = inputs["x0"] + high[:, None] * inputs["noise"]

    def steps(x, sigma, lower):
        return carry(oracle.denoise, x, sigma, lower)

    target = flow_maps.progressive_target(steps, x, high, middle, low)
    student = ss.make_denoiser(
        toy(case), lambda s: precondition.edm(s, sigma_data=inputs["sigma_data"])
    )
    distance = {"l2": squared, "l1": absolute}[inputs["loss_norm"]]
    weight = cm_weight(inputs["weight_schedule"], inputs["sigma_data"])(high)
    loss = weight * distance(student(x, high), target)
    agree(case, t=high, t2=middle, t3=low, x_t=x, x_t2=steps(x, high, middle))
    agree(case, target=target, denoised=student(x, high), loss=loss)


@of("cm.multistep_sampler")
def test_multistep_sampler(case):
    inputs, ladder = given(case), ladder_of(given(case))
    raw = ss.make_jump(toy(case), cm_scalings(inputs))
    sigmas = ladder.level(as_float(inputs["ts"]) / (inputs["steps"] - 1))
    sampler = ss.samplers.SAMPLERS["consistency"](sigma_min=inputs["sigma_min"])
    out = ss.sample(sampler, raw, inputs["x"], sigmas, noise=inputs["noise"])
    agree(case, x=out.x)


@of("cm.progdist_sampler")
def test_progressive_sampler(case):
    inputs, oracle = given(case), ORACLES[case["problem"]]
    share = jnp.linspace(0, 1, inputs["num_steps"] + 1)
    sigmas = ladder_of(inputs).level(share)
    out = ss.sample("jump", oracle.denoise, inputs["x"], sigmas)
    agree(case, sigmas=sigmas, x=out.x)
    assert int(out.num_evals) == inputs["num_steps"]


@of("ect.pair")
def test_shrinking_gaps(case):
    inputs = given(case)
    steepness = inputs["k"] if inputs["mapping"] == "sigmoid" else 0.0
    found = [
        pairs.shrinking_gap(
            inputs["t"], n, factor=inputs["q"], steepness=steepness, slope=inputs["b"]
        )
        for n in inputs["stages"]
    ]
    agree(case, r=jnp.stack(found))


@of("ect.loss")
def test_consistency_tuning(case):
    inputs = given(case)
    sigma = jnp.exp(inputs["mean"] + inputs["std"] * inputs["normal"])
    lower = pairs.shrinking_gap(
        sigma, inputs["stage"], factor=inputs["q"], steepness=8.0
    )
    jump = ss.make_jump(toy(case), precondition.edm)
    loss = consistency.consistency_loss(
        jump,
        jump,
        inputs["x0"],
        inputs["noise"],
        sigma,
        lower,
        distance=lambda x, y: pseudo_huber(x, y, c=inputs["c"]),
        weight=consistency.inverse_gap,
    )
    agree(case, t=sigma, r=lower, loss=loss)


@of("ect.sampler")
def test_consistency_sampler_of_tuning(case):
    inputs = given(case)
    jump = ss.make_jump(toy(case), precondition.edm)
    sigmas = ss.grids.levels(inputs["sigma_max"], *inputs["mid"])
    start = inputs["latents"] * inputs["sigma_max"]
    out = ss.sample("consistency", jump, start, sigmas, noise=inputs["noise"])
    agree(case, x=out.x)


@of("ect.weighted_distance")
def test_distances(case):
    inputs = given(case)
    x, y, t, r = (inputs[k] for k in ("prediction", "target", "t", "r"))
    out = precondition.edm(t, sigma_data=inputs["sigma_data"]).out
    weight = {
        "default": consistency.inverse_gap(t, r),
        "c_out": 1 / out,
        "c_out_sq": 1 / out**2,
        "sigma_sq": 1 / t**2,
        "sqrt": 1 / jnp.sqrt(t - r),
        "one": jnp.ones_like(t),
    }[inputs["weighting"]]
    distance = pseudo_huber(x, y, c=inputs["c"])
    if inputs["squared"] and inputs["c"] == 0:
        distance = distance**2
    agree(case, distance=distance, loss=weight * distance)


@of("ict.num_levels")
def test_doubling_levels(case):
    inputs = given(case)
    found = pairs.doubling_levels(
        inputs["step"], inputs["total_steps"], first=inputs["s0"], last=inputs["s1"]
    )
    agree(case, num_levels=found)


@of("ict.levels")
def test_levels_and_probabilities(case):
    inputs, ladder = given(case), ladder_of(given(case))
    count = inputs["num_levels"]
    found = pairs.log_normal_probabilities(
        ladder, count, mean=inputs["mean"], std=inputs["std"]
    )
    high, low = ladder.pair(jnp.arange(count - 1), count)
    sigmas = jnp.append(high, low[-1])[::-1]
    gaps = consistency.inverse_gap(high, low)[::-1]
    agree(case, sigmas=sigmas, probability=found[::-1], weight=gaps)


@of("ict.loss")
def test_improved_consistency_training(case):
    inputs, ladder = given(case), ladder_of(given(case))
    count = pairs.doubling_levels(
        inputs["step"], inputs["total_steps"], first=inputs["s0"], last=inputs["s1"]
    )
    # Here pair 0 is the highest, there the lowest.
    high, low = ladder.pair(count - 2 - as_float(inputs["index"]), count)
    jump = ss.make_jump(toy(case), cm_scalings(inputs))
    loss = consistency.consistency_loss(
        jump,
        jump,
        inputs["x0"],
        inputs["noise"],
        high,
        low,
        distance=lambda x, y: pseudo_huber(x, y, c=inputs["c"]),
        weight=consistency.inverse_gap,
    )
    agree(case, loss=loss, weight=consistency.inverse_gap(high, low))


def vp_levels(u, inputs):
    low, high = (
        math.atan(math.exp(-inputs[k] / 2)) for k in ("logsnr_max", "logsnr_min")
    )
    log_snr = -2 * jnp.log(jnp.tan((high - low) * u + low))
    return log_snr, jnp.exp(-log_snr / 2), jnp.sqrt(jax.nn.sigmoid(log_snr))


@of("pd.logsnr")
def test_cosine_schedule(case):
    inputs = given(case)
    log_snr, sigma, alpha = vp_levels(inputs["u"], inputs)
    agree(case, logsnr=log_snr, sigma=sigma, alpha=alpha, std=alpha * sigma)


@of("pd.loss")
def test_progressive_distillation(case):
    inputs, oracle = given(case), ORACLES[case["problem"]]
    count, index = inputs["num_steps"], as_float(inputs["index"])
    (log_snr, high, alpha), (_, middle, mid_alpha), (_, low, _) = (
        vp_levels(jnp.asarray(u), inputs)
        for u in (
            (index + 1) / count,
            (index + 0.5) / count,
            jnp.maximum(index / count, 0),
        )
    )
    low = jnp.where(index == 0, 0.0, low)  # the last step leads to the data
    x = inputs["x0"] + high[:, None] * inputs["noise"]

    def steps(x, sigma, lower):
        return carry(oracle.denoise, x, sigma, lower)

    target = flow_maps.progressive_target(steps, x, high, middle, low)
    std = alpha * high
    z = alpha[:, None] * x
    z_mid = mid_alpha[:, None] * steps(x, high, middle)
    agree(case, logsnr=log_snr, z=z, z_mid=z_mid, x_target=target)
    eps_target = (x - target) / high[:, None]
    v_target = alpha[:, None] * eps_target - std[:, None] * target
    agree(case, eps_target=eps_target, v_target=v_target)
    kind = inputs["mean_type"]
    if kind == "both":
        return
    # The raw network is fed z = in_ x and -logsnr/8 = log(sigma)/4.
    plain = {"x": precondition.x0, "eps": precondition.noise, "v": precondition.v}
    student = ss.make_denoiser(toy(case), plain[kind])(x, high)
    weight = {
        "snr": losses.noise,
        "snr_trunc": losses.truncated_snr,
        "v_mse": lambda s: edm_weight(s, sigma_data=1.0),
    }[inputs["weight"]](high)
    agree(case, model_x=student, loss=weight * squared(student, target))


@of("pd.sampler")
def test_sampler_of_progressive_distillation(case):
    inputs, oracle = given(case), ORACLES[case["problem"]]
    count = inputs["num_steps"]
    u = jnp.linspace(1, 1 / count, count)
    _, sigmas, alphas = vp_levels(u, inputs)
    out = ss.sample(
        "jump", oracle.denoise, inputs["z"] / alphas[0], jnp.append(sigmas, 0.0)
    )
    agree(case, x=out.x)


@of("meanflow.loss")
def test_mean_flow_loss(case):
    inputs, raw = given(case), toy(case, second=True)
    x0, eps, t, r = (inputs[k] for k in ("x0", "noise", "t", "r"))
    z = (1 - t)[:, None] * x0 + t[:, None] * eps
    jump = line_jump(raw)
    velocity = given(case, "out")["velocity"]
    if not inputs["guided"]:
        agree(case, velocity=eps - x0)
    loss = flow_maps.mean_flow_loss(
        jump, z, velocity, t, r, power=inputs["norm_p"], offset=inputs["norm_eps"]
    )
    agree(case, z=z, loss=loss.mean(), u=flow_maps.average_velocity(jump)(z, t, r))


def line_jump(u):
    """The jump of a network u(z, t, t - r) on the straight line."""

    def jump(x, sigma, sigma_next, cond=None):
        sigma, lower = (
            jnp.broadcast_to(jnp.asarray(s, x.dtype), x.shape[:1])
            for s in (sigma, sigma_next)
        )
        t, r = sigma / (1 + sigma), lower / (1 + lower)
        z = (1 - t)[:, None] * x
        return z - t[:, None] * u(z, t, t - r)

    return FlowMap(jump)


@of("meanflow.sampler")
def test_mean_flow_sampler(case):
    inputs = given(case)
    raw = toy(case, second=True)
    # Time 1 is an infinite sigma: the first step is taken by hand.
    times = jnp.asarray(inputs["times"])
    z = inputs["z"]
    first = times[1]
    ones = jnp.ones(len(z))
    z = z - (1 - first) * raw(z, ones, ones * (1 - first))
    if len(times) > 2:
        sigmas = times[1:] / (1 - times[1:])
        z = ss.sample("jump", line_jump(raw), z / (1 - first), sigmas).x
    agree(case, x=z)


@of("scm.loss")
def test_continuous_consistency_loss(case):
    inputs = given(case)
    scale, sigma = (
        inputs["sigma_data"],
        jnp.exp(inputs["mean"] + inputs["std"] * inputs["normal"]),
    )
    t = jnp.arctan(sigma / scale)
    cos, sin = jnp.cos(t)[:, None], jnp.sin(t)[:, None]
    z = scale * inputs["noise"]
    y = cos * inputs["x0"] + sin * z
    slope = cos * z - sin * inputs["x0"]
    if inputs["teacher"]:
        denoise = ORACLES[case["problem"]].denoise
        slope = flow_maps.circle_velocity(denoise, y, t, scale)
    raw = toy(case)

    def jump(x, sigma, sigma_next, cond=None):
        t = jnp.arctan(sigma / scale)
        cos, sin = jnp.cos(t)[:, None], jnp.sin(t)[:, None]
        return cos * cos * x - sin * scale * raw(cos * x / scale, t)

    loss = trigflow.continuous_consistency_loss(
        FlowMap(jump),
        y,
        slope,
        t,
        sigma_data=scale,
        warm_up=min(1, inputs["iteration"] / inputs["warmup_steps"]),
        offset=inputs["c"],
    )
    u, dims = inputs["log_variance"], y.shape[1]
    weight = 1 / sigma if inputs["prior_weight"] else jnp.ones_like(sigma)
    # That program divides by the number of dimensions twice.
    agree(case, t=t, x_t=y, velocity=slope)
    agree(case, F=trigflow.raw_network(FlowMap(jump), y, t, scale))
    agree(case, loss=weight / jnp.exp(u) / dims * loss + u)


@of("cm.continuous_loss")
def test_tangent_of_consistency_models(case):
    """Their tangent is the derivative that the loss of the circle is made of."""
    inputs = given(case)
    ladder = ladder_of(inputs)
    t = ladder.level(1 - inputs["uniform"])
    x = inputs["x0"] + t[:, None] * inputs["noise"]
    velocity = inputs["noise"]
    if inputs["teacher"]:
        velocity = -t[:, None] * ORACLES[case["problem"]].score(x, t)
    jump = ss.make_jump(toy(case), cm_scalings(inputs))
    prediction, rate = jax.jvp(
        lambda x, t: jump(x, t, jnp.zeros_like(t)), (x, t), (velocity, jnp.ones_like(t))
    )
    agree(case, t=t, x_t=x, velocity=velocity, prediction=prediction, tangent=-rate)


@of("shortcut.targets", "shortcut.progressive")
def test_shortcut_targets(case):
    """The target of a bootstrapped example is the mean of two half steps.

    Their time runs from noise to data, and their network is told log2 of the number of
    steps, over 4.
    """
    inputs, expected = given(case), given(case, "out")
    if inputs.get("guided"):
        pytest.skip("the guided target mixes two labels, and the toy knows none")
    raw = toy(case, second=True)
    bootstrapped = case["function"] == "shortcut.targets"
    ahead = 0.05 * inputs["averaged"] if bootstrapped else 0.1

    def u(z, t, gap):
        return -raw(z, 1 - t + ahead, -jnp.log2(gap) / 4)

    count = len(inputs["x0"]) // (inputs["bootstrap_every"] if bootstrapped else 1)
    t = 1 - expected["t"][:count]
    size = 2.0 ** -as_float(expected["dt_base"][:count])
    target = flow_maps.half_steps_target(
        line_jump(u),
        expected["x_t"][:count],
        t,
        t - size,
        bound=4 if bootstrapped else jnp.inf,
    )
    wanted = expected["v_target"][:count]
    usable = np.asarray(t < 1)  # at pure noise sigma is infinite
    assert usable.any()
    tolerance = {"rtol": 1e-9, "atol": 1e-10}
    assert close(-target[usable], wanted[usable], tolerance)


IMM_TIMES = {  # sigma / sigma_data as a function of time, and back
    "fm": (lambda t: t / (1 - t), lambda r: r / (1 + r)),
    "vp_cosine": (
        lambda t: jnp.tan(math.pi * t / 2),
        lambda r: 2 * jnp.arctan(r) / math.pi,
    ),
}
IMM_ALPHA = {"fm": lambda t: 1 - t, "vp_cosine": lambda t: jnp.cos(math.pi * t / 2)}


def imm_jump(case):
    """The jump of a network in each of the published parameterisations.

    They are a prediction of x0 (`identity`), EDM's with the sign of F changed
    (`simple_edm`), and a velocity of the straight line (`euler_fm`).
    """
    inputs, network = given(case), toy(case, second=True)
    sd, kind = inputs["sigma_data"], inputs["parameterisation"]
    ratio_of, time_of = IMM_TIMES[inputs["schedule"]]

    def coefficients(sigma):
        c, t = precondition.edm(sigma, sigma_data=sd), time_of(sigma / sd)
        if kind == "identity":
            c = c._replace(skip=jnp.zeros_like(t), out=jnp.ones_like(t))
        if kind == "simple_edm":
            c = c._replace(out=-c.out)
        if kind == "euler_fm":
            c = c._replace(skip=1 - t, out=-t * sd)
        return c._replace(noise=t)

    def raw(u, t, ratio, cond=None):
        s = time_of(ratio * ratio_of(t))
        # The published Euler map is told how far it goes.
        default = "stride" if kind == "euler_fm" else "identity"
        is_stride = inputs.get("second_time", default) == "stride"
        return network(u, t, t - s if is_stride else s)

    return ss.make_jump(raw, coefficients)


@of("imm.map")
def test_maps_of_inductive_moment_matching(case):
    inputs = given(case)
    ratio_of, _ = IMM_TIMES[inputs["schedule"]]
    alpha, sd = IMM_ALPHA[inputs["schedule"]], inputs["sigma_data"]
    t, s = inputs["t"], inputs["s"]
    x = inputs["x0"] + ratio_of(t)[:, None] * inputs["noise"]
    end = carry(imm_jump(case), x, sd * ratio_of(t), sd * ratio_of(s))
    agree(case, xt=alpha(t)[:, None] * x, xs=alpha(s)[:, None] * end)


@of("imm.sampler")
def test_steps_of_inductive_moment_matching(case):
    """Each is a jump of `sample`, over a grid of times."""
    inputs = given(case)
    assert inputs["kind"] == "pushforward"
    ratio_of, time_of = IMM_TIMES[inputs["schedule"]]
    alpha, sd = IMM_ALPHA[inputs["schedule"]], inputs["sigma_data"]
    first, last = (float(ratio_of(inputs[k])) for k in ("T", "eps"))
    if inputs["grid"] == "uniform":
        times = jnp.linspace(inputs["T"], inputs["eps"], inputs["num_steps"] + 1)
        levels = sd * ratio_of(times)
    elif inputs["grid"] == "edm":
        ends = {"sigma_min": sd * last, "sigma_max": sd * first}
        levels = ss.grids.karras(inputs["num_steps"] + 1, **ends)[:-1]
    else:
        levels = sd * jnp.asarray([first, last])
    x = inputs["latents"] / alpha(inputs["T"])
    end = ss.sample("jump", imm_jump(case), x, levels).x
    agree(case, x=alpha(time_of(levels[-1] / sd)) * end)
