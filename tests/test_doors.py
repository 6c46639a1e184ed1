"""Whatever is brought to a public function: the right result, or one clear error.

Arguments are generated: types, shapes, sizes and levels that users bring and nobody
thinks of. What comes back has the type and the shape that it should, is finite, and
does not depend on the other examples of its batch.
"""

import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import GAUSSIAN, unless
from generated import LEVELS, few, half, like, points, smooth
from hypothesis import given
from hypothesis import strategies as st

import score_sde as ss
from score_sde import divergences, editing, measurements
from score_sde.arrays import as_data, as_float, as_labels
from score_sde.losses import WEIGHTS
from score_sde.networks import NETWORKS, from_linen
from score_sde.precondition import PRECONDITIONERS
from score_sde.samplers import SAMPLERS, BrownianPath
from score_sde.sde import SDES

# Loops without a fixed number of turns need compilation.
COMPILED = ("dpm_fast", "dpm_adaptive", "adaptive_sde")


SOME = ("dpmpp_2m",)


@pytest.mark.parametrize("name", unless(SOME.__contains__, SAMPLERS))
@few
@given(x=points(), num_steps=st.integers(2, 3), denoise=st.sampled_from((smooth, half)))
def test_samplers(name, x, num_steps, denoise):
    sigmas = ss.grids.karras(num_steps, sigma_min=0.1, sigma_max=2.0)
    context = contextlib.nullcontext() if name in COMPILED else jax.disable_jit()
    with context:
        draw = partial(ss.sample, name, denoise, sigmas=sigmas, key=jr.key(0))
        out = draw(2 * x)
        assert like(out.x, x)
        if len(x) > 1:
            alone = np.asarray(draw(2 * x[:1]).x, np.float64)
            together = np.asarray(out.x[:1], np.float64)
            np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-6)


WITH_NOISE = [name for name, make in SAMPLERS.items() if make().stochastic]


@pytest.mark.parametrize("name", WITH_NOISE)
def test_a_bank_of_noise_holds_all_draws_or_is_refused(name):
    sampler = SAMPLERS[name]()
    x, grid = jnp.ones((2, 3)), partial(ss.grids.karras, sigma_min=0.1, sigma_max=2.0)
    for sigmas, to_zero in ((grid(2), True), (grid(3)[:-1], False)):
        needed = sampler.draws_needed(2, to_zero=to_zero)
        if needed is None:
            continue  # it chooses its steps, and what it lacks is NaN
        bank = jr.normal(jr.key(0), (needed, 2, 3))
        run = partial(ss.sample, name, smooth, x, sigmas)
        with jax.disable_jit(name not in COMPILED):
            enough = run(noise=bank).x
            more = run(noise=jnp.concatenate([bank, 1e9 * bank])).x
        assert np.isfinite(enough).all()
        np.testing.assert_array_equal(enough, more)
        with pytest.raises(ValueError, match=f"takes {needed} draws .* got"):
            run(noise=bank[:-1])


def test_checks_hold_inside_of_jit():
    """A grid that is known there is checked there."""
    x = jnp.ones((2, 3))
    for sigmas in (np.asarray([2.0, 1.0, 0.5]), jnp.asarray([2.0, 1.0, 0.5])):

        def draw(x, noise, sigmas=sigmas):
            return ss.sample("euler_ancestral", smooth, x, sigmas, noise=noise).x

        with pytest.raises(ValueError, match="takes 2 draws"):
            jax.jit(draw)(x, jnp.ones((1, 2, 3)))
        path = BrownianPath(jr.key(0), sigma_max=1.0)
        with pytest.raises(ValueError, match="begins at sigma_max 1.0, below"):
            jax.jit(partial(draw, noise=path))(x)
        with pytest.raises(ValueError, match="finite and decrease"):
            jax.jit(partial(draw, noise=path, sigmas=sigmas[::-1]))(x)


def test_what_a_traced_grid_lacks_of_noise_is_nan():
    """Whether it ends at 0, where a step takes no noise, is not known before."""
    x, bank = jnp.ones((2, 3)), jr.normal(jr.key(0), (1, 2, 3))
    draw = jax.jit(lambda s: ss.sample("euler_ancestral", smooth, x, s, noise=bank).x)
    assert np.isfinite(draw(jnp.asarray([2.0, 1.0, 0.0]))).all()
    assert np.isnan(draw(jnp.asarray([2.0, 1.0, 0.5]))).all()


def test_what_an_adaptive_sampler_lacks_of_noise_is_nan():
    sigmas = ss.grids.karras(2, sigma_min=0.1, sigma_max=2.0)
    sampler = SAMPLERS["dpm_adaptive"](eta=1.0)
    noise = jr.normal(jr.key(0), (1, 2, 3))
    out = ss.sample(sampler, smooth, jnp.ones((2, 3)), sigmas, noise=noise)
    assert not out.success.any()
    assert np.isnan(out.x).all()


@pytest.mark.parametrize("name", unless("euler_ancestral".__eq__, WITH_NOISE))
def test_a_path_is_the_noise_of_those_that_pass_each_level_once(name):
    sampler = SAMPLERS[name]()
    x, sigmas = jnp.ones((2, 3)), ss.grids.karras(2, sigma_min=0.1, sigma_max=2.0)
    path = BrownianPath(jr.key(0), sigma_max=2.0)
    if not sampler.follows_path:
        with pytest.raises(ValueError, match="passes levels more than once"):
            ss.sample(sampler, smooth, x, sigmas, noise=path)
        return
    drawn = jax.jit(lambda x: ss.sample(sampler, smooth, x, sigmas, noise=path).x)
    assert np.isfinite(drawn(x)).all()
    assert (drawn(x) != drawn(x)[::-1]).any()  # every example has its own


@pytest.mark.parametrize("name", unless(("edm", "iddpm").__contains__, PRECONDITIONERS))
@few
@given(x=points(), sigma=st.sampled_from(LEVELS), each=st.booleans())
def test_preconditioned_networks(name, x, sigma, each):
    def network(x, noise, cond=None):
        assert noise.shape == x.shape[:1]
        return jnp.tanh(x)

    denoise = ss.make_denoiser(network, PRECONDITIONERS[name])
    level = np.full(len(x), sigma) if each else sigma
    # Half precision has no numbers above 65,504.
    if jnp.dtype(x.dtype).itemsize > 2 or float(sigma) < 100:
        assert like(denoise(x, level), x)


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_a_level_of_zero_changes_nothing(name):
    if name == "x0":
        return  # it predicts the data from the data
    denoise = ss.make_denoiser(lambda x, noise, cond: x, PRECONDITIONERS[name])
    x = jnp.ones((2, 3))
    np.testing.assert_allclose(denoise(x, 0), x, rtol=1e-12)


@pytest.mark.parametrize("name", unless(("vp", "edm").__contains__, SDES))
@few
@given(
    x=points(),
    share=st.sampled_from((0, 0.5, 1)),
    make=st.sampled_from(
        (
            float,
            np.float32,
            jnp.float32,
            np.float64,
            lambda t: np.asarray(t, np.float16),
        )
    ),
)
def test_sdes(name, x, share, make):
    sde = SDES[name]()
    t = make(np.exp((1 - share) * np.log(sde.t_min) + share * np.log(sde.t_max)))
    t = min(max(float(t), sde.t_min), sde.t_max)
    assert like(ss.perturb(x, x, t, sde=sde), x)
    for formula in ("log_alpha", "sigma", "std", "log_snr", "drift_rate"):
        assert np.isfinite(getattr(sde, formula)(t))
    nats = ss.prior_log_prob(x, sde=sde)
    assert nats.shape == x.shape[:1]


@pytest.mark.parametrize("name", WEIGHTS)
@few
@given(sigma=st.sampled_from(LEVELS))
def test_weights(name, sigma):
    options = {"sde": ss.VP()} if name == "likelihood" else {}
    inside = jnp.clip(as_float(sigma).astype(jnp.float32), 1e-3, 100.0)
    for level in (inside, inside[None]):
        weight = WEIGHTS[name](level, **options)
        assert weight.shape == level.shape
        assert np.isfinite(weight).all()
        assert (weight >= 0).all()


@pytest.mark.slow
@few
@given(x=points(("float32", "float64")))
def test_restoration(x):
    x = jnp.asarray(x)
    mask = measurements.Mask(jnp.ones(x.shape[1:]))
    sigmas = ss.grids.karras(3, sigma_min=0.1, sigma_max=2.0)
    for restored in (
        editing.replace(smooth, mask, x),
        editing.pseudo_inverse(smooth, mask, x, noise_std=0.1, sigma_data=0.5),
        editing.moment_matching(smooth, mask, x, noise_std=0.1),
        editing.dps(smooth, mask, x, sigmas=sigmas),
    ):
        assert like(restored(x, 0.5), x)


@pytest.mark.parametrize("name", divergences.DIVERGENCES)
@pytest.mark.parametrize("shape", [(1,), (2,), (1, 1, 1), (2, 3)])
def test_divergences(name, shape):
    x = jr.normal(jr.key(0), shape)
    value, traces = divergences.DIVERGENCES[name](lambda x: 2 * x, x, jr.key(1))
    np.testing.assert_allclose(value, 2 * x)
    # Of a multiple of the identity, every probe of the length of signs finds it.
    if name not in ("hutchinson_gaussian", "hutch_plus_plus"):
        np.testing.assert_allclose(traces, 2 * x.size, rtol=1e-6)


ZERO = lambda x, noise, cond=None: 0 * x
EDM = partial(PRECONDITIONERS["edm"], sigma_data=0.5)
LEVELS_TAKEN = {
    "denoiser": lambda x, s: ss.make_denoiser(ZERO, EDM)(x, s),
    "jump": lambda x, s: ss.make_jump(ZERO, EDM)(x, 1.0, s),
    "carry from": lambda x, s: ss.flow_map.carry(smooth, x, s, 0.5),
    "carry to": lambda x, s: ss.flow_map.carry(smooth, x, 1.0, s),
    "jump between": lambda x, s: ss.flow_map.jump_between(x, x, s, 0.5),
    "oracle": lambda x, s: GAUSSIAN.denoise(x, s),
}


@pytest.mark.parametrize("name", LEVELS_TAKEN)
@pytest.mark.parametrize("sigma", [-1.0, float("nan"), [0.5, -2.0]])
def test_a_level_that_is_none_is_refused(name, sigma):
    """A logarithm of one most often, for which the formulas give numbers too."""
    x, sigma, take = jnp.ones((2, 4)), jnp.asarray(sigma), LEVELS_TAKEN[name]
    with pytest.raises(ValueError, match=r"^sigma(_next)? is .*; it must be >=? 0"):
        take(x, sigma)
    with pytest.raises(ValueError, match="it must be"):
        jax.jit(lambda x: take(x, np.asarray(sigma)))(x)  # a constant is known there
    jax.jit(lambda x: take(x, np.full(2, 0.25)))(x)
    jax.jit(partial(take, x))(sigma)  # has no value to see


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool", "complex64"])
@pytest.mark.usefixtures("unchecked")
def test_whole_and_complex_numbers_are_no_data(dtype):
    x = np.ones((2, 3), dtype)
    levels = ss.noise_levels.LogNormal()
    for call in (
        lambda: ss.perturb(x, np.ones((2, 3)), 0.5, sde=ss.VP()),
        lambda: ss.denoising_loss(
            jr.key(0), smooth, x, noise_levels=levels, weight=WEIGHTS["edm"]
        ),
    ):
        with pytest.raises(ValueError, match=f"^x0 is an array of {dtype}"):
            call()
    assert as_data([[1, 2], [3, 4]]).dtype == jnp.float64  # a list is numbers alone


@pytest.mark.usefixtures("unchecked")
def test_complex_levels_are_refused():
    with pytest.raises(ValueError, match="numbers must be real, got complex"):
        ss.VP().sigma(1j)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int64"])
def test_labels_of_any_type_are_the_classes_that_they_name(dtype):
    """One-hot vectors of 200 classes: their numbers don't fit into int8."""
    labels = np.asarray([0, 5, 100], dtype)
    np.testing.assert_array_equal(as_labels(labels, 200), [0, 5, 100])
    for wrong, match in ((np.ones(2), "must be integers"), ([200], "is no class")):
        with pytest.raises(ValueError, match=match):
            as_labels(wrong, 200)
    with pytest.raises(ValueError, match="must be integers"):
        jax.jit(lambda a: as_labels(a, 200))(jnp.ones(2))


CLASSES = 200
CONDITIONAL = {
    "unet": {"channels": 8, "multipliers": (1,), "blocks_per_level": 1},
    "song_unet": {"channels": 8, "multipliers": (1,), "blocks_per_level": 1},
    "dit": {"hidden_size": 16, "depth": 1, "num_heads": 2, "learn_sigma": False},
}


@pytest.mark.parametrize("name", unless("dit".__eq__, CONDITIONAL))
def test_networks_see_narrow_labels_as_the_classes_that_they_name(name):
    module = NETWORKS[name](**CONDITIONAL[name], num_classes=CLASSES)
    wide = {"label": jnp.asarray([0, 100], jnp.int32)}
    network = from_linen(module, (8, 8, 1), jax.tree.map(lambda a: a[:1], wide))
    params = network.init(jr.key(0))
    params = jax.tree.map(lambda a: jr.normal(jr.key(1), a.shape, a.dtype), params)
    x = jr.normal(jr.key(2), (2, 8, 8, 1), jnp.float32)
    apply = jax.jit(network.apply)
    noise = jnp.zeros(2, jnp.float32)
    expected = apply(params, x, noise, wide)
    narrow = {"label": wide["label"].astype(jnp.int8)}
    np.testing.assert_array_equal(apply(params, x, noise, narrow), expected)


@pytest.mark.parametrize("name", unless(SOME.__contains__, SAMPLERS))
def test_nan_in_one_example_stays_there(name):
    x = GAUSSIAN.sample(jr.key(0), 3)
    bad = x.at[1, 0].set(jnp.nan)
    sigmas = ss.grids.karras(3, sigma_min=0.1, sigma_max=2.0)
    with contextlib.nullcontext() if name in COMPILED else jax.disable_jit():
        draw = partial(ss.sample, name, smooth, sigmas=sigmas, key=jr.key(0))
        good, out = draw(x), draw(bad)
    np.testing.assert_array_equal(good.x[::2], out.x[::2])
    assert np.isnan(out.x[1]).any()
    if out.success is not None:
        assert out.success.tolist() == [True, False, True]
