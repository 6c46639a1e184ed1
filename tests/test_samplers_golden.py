"""Samplers against the published programs, number for number."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import GAUSSIAN, close, golden, problems, unless

import score_sde as ss
from score_sde import schedules
from score_sde.fields import pytree, static
from score_sde.samplers import SAMPLERS, BrownianPath
from score_sde.samplers.ancestral import ancestral_levels
from score_sde.samplers.lms import adams_weights

CASES, ARRAYS = golden("k_diffusion")
EDM_CASES, EDM_ARRAYS = golden("edm")
OPTIONS = ("eta", "s_noise", "s_churn", "s_tmin", "s_tmax", "order", "solver_type", "r")
CONTROL = ("rtol", "atol", "h_init", "pcoeff", "icoeff", "dcoeff", "accept_safety")


def of(*functions):
    return [c for c in CASES if c["function"].removeprefix("kd.") in functions]


def given(case):
    """The inputs of a case, arrays in place of their names."""
    return {k: ARRAYS[v[1:]] if str(v)[0] == "@" else v for k, v in case["in"].items()}


def sampler_of(case, inputs):
    exact = ("order", "solver_type")  # the rest are numbers, some of them "inf"
    options = {
        k: inputs[k] if k in exact else float(inputs[k])
        for k in OPTIONS + CONTROL
        if k in inputs
    }
    return SAMPLERS[case["function"].removeprefix("kd.sample_")](**options)


def grid_of(inputs):
    """The grid, or one with the ends and the number of steps that were given."""
    if "sigmas" in inputs:
        return inputs["sigmas"]
    ends = {k: inputs[k] for k in ("sigma_min", "sigma_max")}
    return ss.grids.karras(inputs.get("n", 2), **ends)


def first_of_each(cases):
    return list({(c["function"], c["problem"]): c for c in reversed(cases)}.values())


ON_GRIDS = [
    c
    for c in CASES
    if c["function"].startswith("kd.sample_") and "adaptive" not in c["function"]
]


def check(case, dtype, precision):
    inputs = given(case)
    x, sigmas = (jnp.asarray(a, dtype) for a in (inputs["x_T"], grid_of(inputs)))
    # Step by step: compiling each of the many grids takes ten times as long.
    with jax.disable_jit():
        out = ss.sample(
            sampler_of(case, inputs),
            problems()[case["problem"]].denoise,
            x,
            sigmas,
            noise=inputs.get("noise"),
            key=None if "noise" in inputs else jr.key(0),
        )
    assert out.x.dtype == dtype
    assert out.num_evals == case["out"]["nfe"]
    assert close(out.x, ARRAYS[case["out"]["x"][1:]], case["tol"]["x"][precision])


@pytest.mark.parametrize(
    "case",
    unless(lambda c: c in first_of_each(ON_GRIDS), ON_GRIDS),
    ids=lambda c: c["id"],
)
def test_samplers_are_those_of_a_peer(case):
    check(case, jnp.float64, "f64")


@pytest.mark.slow
@pytest.mark.parametrize("case", ON_GRIDS, ids=lambda c: c["id"])
def test_samplers_are_those_of_a_peer_in_float32(case):
    check(case, jnp.float32, "f32")


@pytest.mark.parametrize("precision", unless("f64".__eq__, ["f64", "f32"]))
@pytest.mark.parametrize("case", of("sample_dpm_adaptive"), ids=lambda c: c["id"])
def test_dpm_adaptive_is_that_of_a_peer(case, precision):
    """The peer has one step size for the whole batch: here the batch is one example."""
    inputs, oracle = given(case), problems()[case["problem"]]
    dtype = {"f64": jnp.float64, "f32": jnp.float32}[precision]

    def denoise(x, sigma, cond=None):
        return oracle.denoise(x[0], sigma[0])[None]

    noise = inputs.get("noise")
    out = ss.sample(
        sampler_of(case, inputs),
        denoise,
        jnp.asarray(inputs["x_T"], dtype)[None],
        jnp.asarray(grid_of(inputs), dtype),
        noise=None if noise is None else noise[:, None],
    )
    assert out.success[0]
    assert close(out.x[0], ARRAYS[case["out"]["x"][1:]], case["tol"]["x"][precision])
    # In float32 the peer itself accepts other steps (quirk 3).
    if precision == "f64":
        assert out.num_evals[0] == case["out"]["nfe"]
        assert out.num_accepted[0] == case["out"]["n_accept"]
        assert out.num_rejected[0] == case["out"]["n_reject"]


@pytest.mark.parametrize("case", of("pid_controller"), ids=lambda c: c["id"])
def test_the_step_size_controller_is_that_of_a_peer(case):
    inputs = given(case)
    errors = inputs.pop("errors")
    inputs["h_init"] = inputs.pop("h0")
    sampler = SAMPLERS["dpm_adaptive"](**inputs)
    control, accepted, steps = sampler.controller((1,), jnp.float64), [], []
    for error in errors:
        accept, control = sampler.propose(control, jnp.asarray([error]))
        accepted.append(bool(accept[0]))
        steps.append(control.h[0])
    assert accepted == ARRAYS[case["out"]["accepted"][1:]].tolist()
    expected = ARRAYS[case["out"]["h"][1:]]
    assert close(np.stack(steps), expected, case["tol"]["h"]["f64"])


@pytest.mark.parametrize("case", of("lms_coeff"), ids=lambda c: c["id"])
def test_multistep_weights_are_those_of_a_peer(case):
    inputs = given(case)
    sigmas, number = jnp.asarray(inputs["sigmas"]), jnp.asarray(inputs["i"])
    weights = adams_weights(sigmas, number, inputs["order"])
    expected = ARRAYS[case["out"]["coeffs"][1:]]
    assert close(weights, expected, case["tol"]["coeffs"]["f64"])


@pytest.mark.parametrize("name", unless("edm".__eq__, ["edm", "edm_stochastic"]))
@pytest.mark.parametrize(
    "case",
    [c for c in EDM_CASES if c["function"] == "edm.edm_sampler"],
    ids=lambda c: c["id"],
)
def test_edm_is_its_authors_sampler(case, name):
    inputs = case["in"]
    ends = {k: inputs[k] for k in ("sigma_min", "sigma_max", "rho")}
    sigmas = ss.grids.karras(inputs["num_steps"], **ends)
    latents = jnp.asarray(EDM_ARRAYS[inputs["latents"][1:]])
    churn = {f"s_{k}": float(inputs[f"S_{k}"]) for k in ("churn", "noise")}
    churn |= {f"s_t{k}": float(inputs[f"S_{k}"]) for k in ("min", "max")}
    denoise = problems()[case["problem"]].denoise
    with jax.disable_jit():
        out = ss.sample(SAMPLERS[name](**churn), denoise, sigmas[0] * latents, sigmas)
    assert out.num_evals == case["out"]["nfe"]
    expected = EDM_ARRAYS[case["out"]["x"][1:]]
    assert close(out.x, expected, case["tol"]["x"]["f64"])


@pytree
class Ablated(ss.SDE):
    """The schedules and scalings of Karras et al. 2022, in all combinations."""

    schedule: ss.SDE = ss.EDM()
    scaled: bool = static(default=False)

    def sigma(self, t):
        return self.schedule.sigma(t)

    def log_alpha(self, t):
        return -0.5 * jnp.log1p(self.sigma(t) ** 2) if self.scaled else 0.0 * t

    def t_from_sigma(self, sigma):
        return self.schedule.t_from_sigma(sigma)


@pytree
class RootOfTime(ss.SDE):
    """What the paper calls VE."""

    def sigma(self, t):
        return jnp.sqrt(t)

    def log_alpha(self, t):
        return 0.0 * t

    def t_from_sigma(self, sigma):
        return sigma**2


@pytree
class BetweenLevels(ss.SDE):
    """VP from a level at t_min to one at t = 1; its beta(0) may be negative."""

    low: float = 0.002
    high: float = 80.0

    def betas(self):
        """Beta at t = 0, and its slope."""
        low, high = (math.log1p(level**2) for level in (self.low, self.high))
        slope = 2 * (low / self.t_min - high) / (self.t_min - 1)
        return high - slope / 2, slope

    def sigma(self, t):
        start, slope = self.betas()
        return jnp.sqrt(jnp.expm1(start * t + slope * t**2 / 2))

    def log_alpha(self, t):
        return 0.0 * t

    def t_from_sigma(self, sigma):
        start, slope = self.betas()
        return (jnp.sqrt(start**2 + 2 * slope * jnp.log1p(sigma**2)) - start) / slope


def ablated(inputs):
    """(the SDE, the levels) that a case names."""
    num_steps, kind = inputs["num_steps"], inputs["discretization"]
    low, high = (
        default if given is None else given
        for given, default in zip(
            (inputs["sigma_min"], inputs["sigma_max"]), ENDS[kind], strict=True
        )
    )
    vp = BetweenLevels(low, high, t_min=inputs["epsilon_s"])
    schedule = {"linear": ss.EDM(), "ve": RootOfTime(), "vp": vp}[inputs["schedule"]]
    if kind == "vp":
        levels = vp.sigma(jnp.linspace(1.0, inputs["epsilon_s"], num_steps))
    elif kind == "iddpm":
        table = schedules.iddpm_levels(inputs["M"], inputs["C_1"], inputs["C_2"])
        table = np.sort(table[(low <= table) & (table <= high)])[::-1]
        index = np.arange(num_steps) * (len(table) - 1) / (num_steps - 1)
        levels = table[np.round(index).astype(int)]
    else:
        grid = {"edm": ss.grids.karras, "ve": ss.grids.exponential}[kind]
        levels = grid(num_steps, sigma_min=low, sigma_max=high)[:-1]
    return Ablated(schedule, scaled=inputs["scaling"] == "vp"), levels


PUBLISHED_VP = ss.VP(beta_min=0.1, beta_max=20.0)
ENDS = {
    "vp": tuple(float(PUBLISHED_VP.sigma(t)) for t in (1e-3, 1.0)),
    "ve": (0.02, 100.0),
    "iddpm": (0.002, 81.0),
    "edm": (0.002, 80.0),
}
ABLATIONS = [c for c in EDM_CASES if c["function"] == "edm.ablation_sampler"]


def check_ablation(case):
    inputs = {
        k: EDM_ARRAYS[v[1:]] if str(v)[0] == "@" else v for k, v in case["in"].items()
    }
    sde, levels = ablated(inputs)
    sigmas = jnp.append(levels, 0.0)
    sampler = SAMPLERS["edm_ablation"](
        s_churn=float(inputs["S_churn"]),
        s_tmin=float(inputs["S_min"]),
        s_tmax=float(inputs["S_max"]),
        s_noise=float(inputs["S_noise"]),
        sde=sde,
        order={"euler": 1, "heun": 2}[inputs["solver"]],
        alpha=float(inputs["alpha"]),
    )
    x = sigmas[0] * jnp.asarray(inputs["latents"])
    denoise = problems()[case["problem"]].denoise
    with jax.disable_jit():
        out = ss.sample(sampler, denoise, x, sigmas, noise=inputs.get("noise"))
    assert out.num_evals == case["out"]["nfe"]
    expected = EDM_ARRAYS[case["out"]["x"][1:]]
    assert close(out.x, expected, case["tol"]["x"]["f64"])


def first_ablations():
    """One of each schedule, scaling and solver, and all that are special."""
    keys = ("schedule", "scaling", "solver", "alpha", "S_churn")
    chosen = {tuple(c["in"][k] for k in keys): c for c in reversed(ABLATIONS)}
    return list(chosen.values())


@pytest.mark.parametrize(
    "case",
    unless(first_ablations()[::3].__contains__, first_ablations()),
    ids=lambda c: c["id"],
)
def test_edm_in_other_variables_is_its_authors_ablation(case):
    check_ablation(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", ABLATIONS, ids=lambda c: c["id"])
def test_all_ablations_of_edm(case):
    check_ablation(case)


def test_ancestral_levels_are_those_of_a_peer():
    (case,) = of("ancestral_step")
    levels = (jnp.asarray(a) for a in given(case).values())
    down, up = ancestral_levels(*levels)
    for name, value in (("sigma_down", down), ("sigma_up", up)):
        expected = ARRAYS[case["out"][name][1:]]
        assert close(value, expected, case["tol"][name]["f64"])


# The exact law of an algorithm's output on Gaussian data, known without sampling.

LAWS = of("output_law")
SMALL = [c for c in LAWS if "karras0/n10/eta0.5" in c["id"] or "dpmpp_3m" in c["id"]]


def has_the_law(case, num, source):
    inputs = given(case)
    sigmas = jnp.asarray(inputs["sigmas"])
    options = {k: inputs[k] for k in ("eta", "s_noise", "solver_type") if k in inputs}
    sampler = SAMPLERS[inputs["sampler"].removeprefix("sample_")](**options)
    x = sigmas[0] * jr.normal(jr.key(0), (num, 4))
    noise = None
    if source == "bank":
        draws = sampler.num_draws * (len(sigmas) - 1)
        noise = jr.normal(jr.key(1), (draws, num, 4))
    if source == "path":
        noise = BrownianPath(jr.key(1))
    out = jax.jit(
        lambda x: (
            ss.sample(
                sampler, GAUSSIAN.denoise, x, sigmas, key=jr.key(1), noise=noise
            ).x
        )
    )(x)
    mean, covariance = (ARRAYS[case["out"][k][1:]] for k in ("mean", "cov"))
    variance = np.diag(covariance)
    mean_error = np.abs(out.mean(0) - mean) / np.sqrt(variance / num)
    spread = np.sqrt((np.outer(variance, variance) + covariance**2) / num)
    # Four standard errors.
    assert mean_error.max() < 4
    assert (np.abs(np.cov(out.T) - covariance) / spread).max() < 4


def source_of(case):
    """Independent draws are given ones; keyed draws overlap as a path does."""
    independent = case["in"]["noise_model"] == "independent"
    return "bank" if independent and "dpmpp_sde" in case["id"] else "key"


@pytest.mark.parametrize(
    "case", unless(SMALL[::2].__contains__, SMALL), ids=lambda c: c["id"]
)
def test_samples_have_the_exact_law_of_the_algorithm(case):
    has_the_law(case, 20_000, source_of(case))


@pytest.mark.slow
@pytest.mark.parametrize("case", LAWS, ids=lambda c: c["id"])
def test_many_samples_have_the_exact_law_of_the_algorithm(case):
    has_the_law(case, 100_000, source_of(case))


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [c for c in LAWS if c["in"]["noise_model"] == "brownian"],
    ids=lambda c: c["id"],
)
def test_samples_of_a_brownian_path_have_the_exact_law(case):
    has_the_law(case, 100_000, "path")
