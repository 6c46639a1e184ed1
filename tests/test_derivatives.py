"""Derivatives of what is registered, of its parameters too, against differences."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import GAUSSIAN, MIXTURE, unless

import score_sde as ss
from score_sde import editing, guidance, likelihood, measurements, noise_levels
from score_sde.fields import pytree
from score_sde.losses import WEIGHTS
from score_sde.precondition import PRECONDITIONERS
from score_sde.samplers import SAMPLERS
from score_sde.sde import SDES, forward_drift, probability_flow, reverse_drift


@pytree
class TwoFormulas(ss.SDE):
    """A user's own: its t_from_sigma is the general one."""

    rate: float = 9.0

    def log_alpha(self, t):
        return -0.25 * self.rate * t**2

    def sigma(self, t):
        return jnp.sqrt(jnp.expm1(0.5 * self.rate * t**2 + 0.1 * t))


ALL = {name: make() for name, make in SDES.items()} | {"own": TwoFormulas()}
# Indices and nearest levels are steps, flat between them.
LEVELS_OF_A_LADDER = ("iddpm", "ve_ladder")
sweep = pytest.mark.parametrize("name", unless(("vp", "edm", "own").__contains__, ALL))


def grads(function, args, rtol=1e-5):
    """Both modes against central differences, of positive numbers in proportion.

    Each argument is an array, or a list of them.
    """
    function = jax.jit(function)
    leaves, tree = jax.tree.flatten(jax.tree.map(lambda a: jnp.asarray(a, float), args))
    keys = jr.split(jr.key(7), len(leaves))
    moves = [
        jr.normal(k, a.shape) * jnp.where(a == 0, 1.0, a)
        for k, a in zip(keys, leaves, strict=True)
    ]
    args, moves = tree.unflatten(leaves), tree.unflatten(moves)

    @jax.jit
    def both(args, moves):
        out, forwards = jax.jvp(function, args, moves)
        _, back = jax.vjp(function, *args)
        cotangents = jax.tree.map(
            lambda a: jnp.cos(jnp.arange(a.size)).reshape(a.shape), out
        )
        scaled = jax.tree.map(lambda c, a: c / (jnp.abs(a) + 1e-3), cotangents, out)
        return forwards, dot(scaled, forwards), dot(back(scaled), moves)

    step = 3e-5
    up, down = (
        function(*jax.tree.map(lambda a, v, s=s: a + s * v, args, moves))
        for s in (step, -step)
    )
    forwards, there, back = both(args, moves)
    for slope, above, below in zip(
        *map(jax.tree.leaves, (forwards, up, down)), strict=True
    ):
        size = np.abs(above) + np.abs(slope)
        np.testing.assert_array_less(
            np.abs(slope - (above - below) / (2 * step)), rtol * size + 1e-9
        )
    np.testing.assert_allclose(back, there, rtol=1e-8, atol=1e-12)


def dot(a, b):
    return sum(
        jnp.vdot(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


def slopes(function):
    """The derivative of a function that acts on each element, as a function."""
    return lambda x: jax.jvp(function, (x,), (jnp.ones_like(x),))[1]


def times(sde):
    return jnp.exp(jnp.linspace(jnp.log(sde.t_min), jnp.log(sde.t_max), 7)[1:-1])


FORMULAS = ("log_alpha", "sigma", "alpha", "std", "log_snr", "drift_rate")


@sweep
def test_formulas_of_an_sde(name):
    sde = ALL[name]

    def formulas(sde, t):
        return [getattr(sde, f)(t) for f in (*FORMULAS, "diffusion_squared")]

    grads(formulas, (sde, times(sde)))


@pytest.mark.slow
@sweep
def test_the_time_of_a_level(name):
    """The general inverse is found by halving, which has no derivative by itself."""
    sde = ALL[name]
    sigma = sde.sigma(times(sde))
    for find in (type(sde).t_from_sigma, ss.SDE.t_from_sigma):
        np.testing.assert_allclose(find(sde, sigma), times(sde), rtol=1e-11)
        grads(find, (sde, sigma))
        grads(slopes(partial(find, sde)), (sigma,), rtol=1e-4)
        grads(slopes(slopes(partial(find, sde))), (sigma,), rtol=1e-3)


@sweep
def test_the_general_inverse_ends_where_the_sde_does(name):
    sde = ALL[name]
    ends = sde.sigma(jnp.asarray([sde.t_min, sde.t_max]))
    beyond = ends * jnp.asarray([0.5, 2.0])
    found = ss.SDE.t_from_sigma(sde, jnp.concatenate([ends, beyond]))
    np.testing.assert_allclose(found, 2 * [sde.t_min, sde.t_max], rtol=1e-9)


@sweep
def test_what_moves_by_an_sde(name):
    sde = ALL[name]
    x = jr.normal(jr.key(0), (3, 4))
    t = times(sde)[1:4]

    def score(xt, t, cond=None):
        return GAUSSIAN.score(xt, t, sde=sde)

    def moves(sde, x, t):
        return [
            ss.perturb(x, jnp.ones_like(x), t, sde=sde),
            forward_drift(x, t, sde=sde),
            reverse_drift(x, t, sde=sde, score=score),
            probability_flow(x, t, sde=sde, score=score),
            ss.prior_log_prob(x, sde=sde),
        ]

    grads(moves, (sde, x, t), rtol=1e-4)


@pytest.mark.parametrize(
    "name", unless(("edm", "vp", "v").__contains__, PRECONDITIONERS)
)
def test_preconditioners(name):
    make = PRECONDITIONERS[name]
    sigma = jnp.asarray([0.0123, 0.456, 7.89])
    told = () if name in LEVELS_OF_A_LADDER else ("noise",)

    def coefficients(sigma):
        return [getattr(make(sigma), part) for part in ("skip", "out", "in_", *told)]

    grads(coefficients, (sigma,), rtol=1e-4)

    def network(x, noise, cond=None):
        return jnp.tanh(x) * jnp.cos(noise)[:, None]

    denoise = ss.make_denoiser(network, make)
    x = jr.normal(jr.key(0), (3, 4))
    grads(lambda x: denoise(x, sigma), (x,))
    for sde in (ss.VP(), ss.EDM()):
        score = ss.make_score(denoise, sde)
        grads(lambda x, sde=sde, score=score: score(x, 0.3), (x,))


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name):
    options = {"sde": ss.VP()} if name == "likelihood" else {}
    sigma = jnp.asarray([0.0123, 0.456, 7.89])
    grads(partial(WEIGHTS[name], **options), (sigma,), rtol=1e-4)


def levels():
    sde = ss.VP()
    yield noise_levels.UniformTime(sde)
    yield noise_levels.LogNormal()
    yield noise_levels.LogUniform(0.01, 50.0)
    yield noise_levels.LikelihoodImportance(sde)


@pytest.mark.parametrize("made", list(levels()), ids=lambda made: type(made).__name__)
def test_distributions_of_noise_levels(made):
    u = jnp.asarray([0.1, 0.4, 0.8])

    def both(made, u, sigma):
        return made.quantile(u), made.density(sigma)

    grads(both, (made, u, made.quantile(u)), rtol=1e-4)


@pytest.mark.parametrize("oracle", [GAUSSIAN, MIXTURE], ids=["Gaussian", "mixture"])
def test_oracles(oracle):
    x = oracle.sample(jr.key(0), 3)
    grads(oracle.denoise, (x, jnp.asarray([0.1, 1.0, 5.0])), rtol=1e-4)
    grads(lambda x, t: oracle.log_prob(x, t, sde=ss.VP()), (x, 0.3), rtol=1e-4)


def guides():
    free = lambda x, s, cond=None: GAUSSIAN.denoise(x, s)  # noqa: E731
    worse = lambda x, s, cond=None: 0.9 * GAUSSIAN.denoise(x, s)  # noqa: E731

    def told(x, sigma, cond):
        return GAUSSIAN.denoise(x, sigma) + cond["vector"]

    yield "autoguidance", lambda w: guidance.autoguidance(free, worse, w)
    yield "classifier_free", lambda w: guidance.classifier_free(told, w)
    yield "rescale", lambda w: guidance.classifier_free(told, w, rescale=0.7)
    yield (
        "compose",
        lambda w: lambda x, s, c: guidance.compose(told, [w, w])(x, s, [c, c]),
    )
    yield "static", lambda w: guidance.static_threshold(free, low=-9.0, high=9.0)
    yield "dynamic", lambda w: guidance.dynamic_threshold(free)
    yield "temperature", lambda w: guidance.temperature(free, sigma_data=0.7)


@pytest.mark.parametrize(("name", "make"), list(guides()))
def test_guidance(name, make):
    x = jr.normal(jr.key(0), (2, 4))
    cond = {"vector": jnp.asarray([[0.1, 0.2, 0.3, 0.4], [0.3, 0.1, 0.0, 0.2]])}
    grads(lambda x, w: make(w)(x, 0.7, cond), (x, 2.0), rtol=1e-4)


def test_rescaled_guidance_of_one_pixel_is_finite():
    def told(x, sigma, cond):
        return 0.5 * x + cond["vector"]

    x, cond = jnp.ones((2, 1)), {"vector": jnp.ones((2, 1))}
    plain = guidance.classifier_free(told, 2.0)(x, 1.0, cond)
    guided = guidance.classifier_free(told, 2.0, rescale=0.7)
    np.testing.assert_array_equal(guided(x, 1.0, cond), plain)
    assert np.isfinite(jax.jacobian(lambda x: guided(x, 1.0, cond))(x)).all()


def restorations():
    mask = measurements.Mask(jnp.asarray([1.0, 0.0, 1.0, 1.0]))
    for name, make in {
        "replace": editing.replace,
        "pseudo_inverse": partial(
            editing.pseudo_inverse, noise_std=0.1, sigma_data=0.7
        ),
        "moment_matching": partial(editing.moment_matching, noise_std=0.1),
        "dps": partial(
            editing.dps, sigmas=ss.grids.karras(5, sigma_min=0.1, sigma_max=5.0)
        ),
    }.items():
        yield name, lambda y, make=make: make(GAUSSIAN.denoise, mask, y)


@pytest.mark.parametrize(("name", "make"), list(restorations()))
def test_restoration(name, make):
    x, y = jr.normal(jr.key(0), (2, 3, 4))
    grads(lambda x, y: make(y)(x, 0.7), (x, y), rtol=1e-3)


@pytest.mark.parametrize(("name", "make"), list(restorations()))
@pytest.mark.parametrize("under", [100.0, np.nan, np.inf])
def test_what_stands_under_a_mask_is_no_measurement(name, make, under):
    x, y = jr.normal(jr.key(0), (2, 3, 4))
    clean = make(y.at[:, 1].set(0.0))(x, 0.7)
    np.testing.assert_allclose(make(y.at[:, 1].set(under))(x, 0.7), clean, rtol=1e-12)


DETERMINISTIC = [
    name
    for name, make in SAMPLERS.items()
    if not make().stochastic and name != "dpm_adaptive"
]
FEW = ("heun", "dpmpp_2m")


@pytest.mark.parametrize("name", unless(FEW.__contains__, DETERMINISTIC))
def test_samples_are_differentiable(name):
    """In the start, and in what the denoiser is made of."""
    sigmas = ss.grids.karras(4, sigma_min=0.1, sigma_max=5.0)

    def draw(x, scale):
        denoise = lambda x, s, cond=None: scale * GAUSSIAN.denoise(x, s)  # noqa: E731
        with jax.disable_jit(name != "dpm_fast"):
            return ss.sample(name, denoise, x, sigmas).x

    grads(draw, (5 * jr.normal(jr.key(0), (2, 4)), 0.9), rtol=1e-3)


def test_interpolation_and_units():
    first, second = jr.normal(jr.key(0), (2, 3, 4))
    grads(likelihood.interpolate, (first, second, 0.3), rtol=1e-4)
    grads(lambda nats: ss.bits_per_dim(nats, 4), (jnp.asarray([1.0, 2.0]),))


def test_every_field_of_an_sde_that_is_a_number_is_a_parameter():
    for sde in ALL.values():
        assert len(jax.tree.leaves(sde)) == len(dataclasses.fields(sde))
