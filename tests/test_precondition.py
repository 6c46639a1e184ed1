from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import ALL_SDES, GAUSSIAN, close, golden, name_of

import score_sde as ss
from score_sde import schedules
from score_sde.precondition import PRECONDITIONERS
from score_sde.predictions import convert

CASES, ARRAYS = golden("edm")
SIGMAS = jnp.geomspace(0.01, 50.0, 9)

sweep = pytest.mark.parametrize("name", PRECONDITIONERS)


def at(value):
    return ARRAYS[value[1:]]


@pytest.mark.parametrize(
    "case", [c for c in CASES if c["function"] == "edm.precond"], ids=lambda c: c["id"]
)
def test_coefficients_are_those_of_a_peer(case):
    options = case["in"]
    if options["kind"] == "vp":
        low = options["beta_min"]
        extra = {"beta_min": low, "beta_max": low + options["beta_d"]}
    else:
        extra = {k: v for k, v in options.items() if k == "sigma_data"}
    c = PRECONDITIONERS[options["kind"]](jnp.asarray(at(options["sigma"])), **extra)
    named = {"c_skip": c.skip, "c_out": c.out, "c_in": c.in_, "c_noise": c.noise}
    for name, value in named.items():
        assert close(value, at(case["out"][name]), case["tol"][name]["f64"]), name


def test_levels_of_iddpm_are_those_of_a_peer():
    (case,) = [c for c in CASES if c["function"] == "edm.iddpm_table"]
    levels = schedules.iddpm_levels(1000, 0.001, 0.008)
    assert close(levels, at(case["out"]["u"]), case["tol"]["u"]["f64"])


def test_v_is_the_peers_v_up_to_the_sign_of_the_network():
    cases, arrays = golden("k_diffusion")
    (case,) = [c for c in cases if c["function"] == "kd.denoiser_scalings"]
    sigma = jnp.asarray(arrays[case["in"]["sigma"][1:]])
    c = ss.precondition.v(sigma)
    np.testing.assert_allclose(c.skip, arrays[case["out"]["c_skip"][1:]], rtol=1e-9)
    np.testing.assert_allclose(c.in_, arrays[case["out"]["c_in"][1:]], rtol=1e-9)
    out = arrays[case["out"]["c_out"][1:]]
    np.testing.assert_allclose(np.abs(c.out), np.abs(out), rtol=1e-9)


def test_edm_gives_the_network_unit_variance_inputs_and_targets(key):
    """Data of standard deviation sigma_data (Karras et al. 2022, app. B.6)."""
    sigma_data = 0.7
    x0, eps = jr.normal(key, (2, 200_000))
    for sigma in SIGMAS:
        c = ss.precondition.edm(sigma, sigma_data=sigma_data)
        x = sigma_data * x0 + sigma * eps
        target = (sigma_data * x0 - c.skip * x) / c.out
        # Standard error of a variance from 200,000 draws: 0.3 %.
        assert float((c.in_ * x).var()) == pytest.approx(1, abs=0.016)
        assert float(target.var()) == pytest.approx(1, abs=0.016)


@sweep
def test_the_perfect_network_makes_the_perfect_denoiser(name, key):
    """F = (x0 - skip x) / out, fed with in_ x, gives D = x0 at every level."""
    x0, eps = jr.normal(key, (2, 9, 4))
    x = x0 + SIGMAS[:, None] * eps
    seen = {}

    def perfect(x_in, noise, cond):
        seen.update(x=x_in, noise=noise)
        c = PRECONDITIONERS[name](SIGMAS)
        return (x0 - c.skip[:, None] * x) / c.out[:, None]

    denoise = ss.make_denoiser(perfect, PRECONDITIONERS[name])
    np.testing.assert_allclose(denoise(x, SIGMAS), x0, rtol=1e-9, atol=1e-9)
    assert seen["noise"].shape == (9,)
    # The condition grows with the noise; an index into a ladder of Song et al. falls.
    sign = -1 if name == "ve_ladder" else 1
    assert (sign * np.diff(seen["noise"]) > 0).all()


@pytest.mark.parametrize("name", [n for n in PRECONDITIONERS if n != "x0"])
def test_the_denoiser_is_the_identity_without_noise(name):
    x = jnp.ones((2, 3))
    # A network that would be NaN if it were told -inf.
    denoise = ss.make_denoiser(
        lambda x, noise, cond: 0 * x + jnp.sin(noise)[:, None], PRECONDITIONERS[name]
    )
    for sigma in (0.0, 1e-7):
        np.testing.assert_allclose(denoise(x, sigma), x, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "sde"),
    [
        ("noise", ss.VP()),
        ("x0", ss.VP()),
        ("v", ss.CosineVP()),
        ("velocity", ss.StraightLine()),
    ],
)
def test_plain_parameterisations_are_those_of_predictions(name, sde, key):
    """The network's input is xt of that SDE, its output the prediction of that name."""
    t = 0.6 * sde.t_max
    x0, eps = jr.normal(key, (2, 5, 3))
    xt = ss.perturb(x0, eps, t, sde=sde)
    output = convert(
        eps, xt, source="noise", target=name, alpha=sde.alpha(t), std=sde.std(t)
    )

    def network(x, noise, cond):
        np.testing.assert_allclose(x, xt, rtol=1e-9)
        return output

    denoise = ss.make_denoiser(network, PRECONDITIONERS[name])
    np.testing.assert_allclose(denoise(xt / sde.alpha(t), sde.sigma(t)), x0, rtol=1e-8)


@pytest.mark.parametrize("sde", [ss.VP(), ss.SubVP()], ids=name_of)
def test_networks_of_song_see_xt_and_999_t_and_predict_the_noise(sde, key):
    """Their score is -F / std (Song et al. 2021, app. C and H)."""
    t = jnp.asarray([0.001, 0.3, 1.0])
    xt, output = jr.normal(key, (2, 3, 4))

    def network(x, noise, cond):
        np.testing.assert_allclose(x, xt, rtol=1e-9)
        np.testing.assert_allclose(noise, 999 * t, rtol=1e-9)
        return output

    name = {"VP": "vp", "SubVP": "subvp"}[name_of(sde)]
    score = ss.make_score(ss.make_denoiser(network, PRECONDITIONERS[name]), sde)
    # At std = 1e-4, sub-VP's at t = 0.001, D is within 1e-16 / 1e-8 of x.
    np.testing.assert_allclose(
        score(xt, t), -output / sde.std(t)[:, None], rtol=1e-6, atol=1e-6
    )


def test_the_ladder_of_song_is_counted_from_the_largest_level():
    levels = jnp.geomspace(100.0, 0.02, 1000)
    c = ss.precondition.ve_ladder(levels)
    np.testing.assert_array_equal(c.noise, np.arange(1000))
    between = jnp.sqrt(levels[3] * levels[4])
    assert ss.precondition.ve_ladder(0.999 * between).noise == 4
    assert ss.precondition.ve_ladder(1.001 * between).noise == 3
    np.testing.assert_array_equal(
        ss.precondition.ve_ladder(jnp.asarray([1e4, 1e-4])).noise, [0, 999]
    )


@pytest.mark.parametrize("sde", ALL_SDES, ids=name_of)
def test_score_of_a_denoiser_is_the_score_of_the_oracle(sde, key):
    score = ss.make_score(GAUSSIAN.denoise, sde)
    for t in (0.2 * sde.t_max, jnp.linspace(0.1, 0.9, 5) * sde.t_max):
        xt = jr.normal(key, (5, 4))
        expected = GAUSSIAN.score(xt, t, sde=sde)
        np.testing.assert_allclose(score(xt, t), expected, rtol=1e-6, atol=1e-9)


def test_denoisers_keep_float32_and_are_conditional():
    def network(x, noise, cond):
        assert noise.dtype == x.dtype == jnp.float32
        return x * cond[:, None]

    denoise = ss.make_denoiser(network, partial(ss.precondition.edm, sigma_data=0.5))
    x = jnp.ones((2, 3), jnp.float32)
    out = jax.jit(denoise)(x, 0.3, jnp.asarray([0.0, 1.0], jnp.float32))
    assert out.dtype == jnp.float32
    assert (out[0] != out[1]).all()


@pytest.mark.usefixtures("unchecked")
def test_a_sigma_of_the_wrong_shape_is_named():
    denoise = ss.make_denoiser(lambda x, noise, cond: x, ss.precondition.v)
    with pytest.raises(ValueError, match="one value per example"):
        denoise(jnp.ones((2, 3)), jnp.ones(5))


@pytest.mark.parametrize("beta_schedule", ["linear", "cosine"])
def test_a_chain_counts_its_own_levels(beta_schedule):
    betas = schedules.BETA_SCHEDULES[beta_schedule](1000)
    levels = jnp.asarray(schedules.levels(betas))
    steps = PRECONDITIONERS["chain"](levels, beta_schedule=beta_schedule).noise
    np.testing.assert_allclose(steps, np.arange(1000), atol=1e-9)
    between = PRECONDITIONERS["chain"](
        jnp.sqrt(levels[:-1] * levels[1:]), beta_schedule=beta_schedule
    ).noise
    np.testing.assert_allclose(between, np.arange(999) + 0.5, atol=1e-9)
    ends = PRECONDITIONERS["chain"](jnp.asarray([1e-9, 1e9])).noise
    np.testing.assert_array_equal(ends, [0, 999])


def test_a_chain_of_4000_steps_may_be_told_as_one_of_1000():
    """A chain whose level depends on its share of the steps alone, as the cosine's."""
    share = np.arange(1, 999) / 1000
    alpha_bar = np.cos(np.pi / 2 * (share + 0.008) / 1.008) ** 2
    alpha_bar /= np.cos(np.pi / 2 * 0.008 / 1.008) ** 2
    sigma = jnp.asarray(np.sqrt(1 / alpha_bar - 1))
    options = {"beta_schedule": "cosine", "num_train_timesteps": 4000}
    told = ss.precondition.chain(sigma, timestep_scale=0.25, **options).noise
    np.testing.assert_allclose(told, (4000 * share - 1) / 4, atol=1e-6)


def test_channels_beyond_those_of_x_are_left_out():
    x = jnp.ones((2, 4, 4, 3))

    def network(x, noise, cond):
        return jnp.concatenate([x, jnp.full_like(x, jnp.nan)], axis=-1)

    denoise = ss.make_denoiser(network, ss.precondition.x0)
    assert np.isfinite(denoise(x, 1.0)).all()


def test_channels_beyond_those_of_the_data_are_the_variance(key):
    """Of one network: the first half is the noise in D, the second is v as it is."""

    def network(x, noise, cond=None):
        return jnp.concatenate([2 * x, noise[:, None] * jnp.ones_like(x)], axis=-1)

    chain = partial(ss.precondition.chain, num_train_timesteps=50)
    sigma, x = jnp.asarray([0.5, 2.0]), jr.normal(key, (2, 3))
    c = chain(sigma)
    predict = ss.precondition.make_denoiser_with_variance(network, chain)
    denoised, v = predict(x, sigma)
    np.testing.assert_array_equal(ss.make_denoiser(network, chain)(x, sigma), denoised)
    scaled = c.in_[:, None] * x
    np.testing.assert_allclose(denoised, x - sigma[:, None] * 2 * scaled, rtol=1e-12)
    np.testing.assert_allclose(v, c.noise[:, None] * np.ones((2, 3)), rtol=1e-12)
