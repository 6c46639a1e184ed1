"""Variants of classifier-free guidance, each against its paper's own coordinates."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.ndimage
from cases import LABELLED, unless

import score_sde as ss
from experiments.launch import load_config
from score_sde import guidance
from score_sde.guidance.branches import along_both, laplacian_bands, projection_scale
from score_sde.guidance.projected import split_along
from score_sde.networks import UNet, from_linen, perturbed
from score_sde.run.build import build
from score_sde.run.model import denoiser
from score_sde.run.sample import guided_denoiser
from score_sde.run.train import initial_params
from score_sde.samplers import SAMPLERS
from score_sde.types import UserError

ROOT = Path(__file__).parents[1]
GRID = ss.grids.karras(6, sigma_min=0.05, sigma_max=20.0)
IMAGE = (5, 6, 2)
ZEROS = jnp.zeros(2, jnp.float32)
VARIANTS = {
    "projected": partial(guidance.adaptive_projected, eta=0.3, bound=0.5),
    "plus_plus": partial(guidance.plus_plus, grid=GRID),
    "zero_star": partial(guidance.zero_star, zero_above=8.0),
    "tangential": guidance.tangential,
    "frequency": lambda denoise, weight: guidance.frequency_decoupled(
        denoise, [weight, weight - 1.0]
    ),
}
sweep = pytest.mark.parametrize("name", VARIANTS)


def label(value, num=5):
    return {"label": jnp.full(num, value)}


def smooth(x, sigma, cond=None):
    """A denoiser that depends on all of its arguments, and is no oracle."""
    level = jnp.asarray(sigma, x.dtype)
    level = level.reshape(level.shape + (1,) * (x.ndim - 1) * level.ndim)
    shift = jnp.zeros(len(x)) if cond is None else 0.3 * cond["label"].astype(x.dtype)
    shift = shift.reshape((-1,) + (1,) * (x.ndim - 1)).astype(x.dtype)
    turned = jnp.roll(x, 1, axis=1)
    return jnp.tanh(x + shift * (1 + 0.5 * turned)) / (1 + level)


def examples(name, num=5):
    shape = IMAGE if name == "frequency" else (3,)
    return 2 * jr.normal(jr.key(7), (num, *shape))


def branches(x, sigma, cond):
    return smooth(x, sigma, cond), smooth(x, sigma, label(-1, len(x)))


# Adaptive projected guidance.


def test_apg_without_its_changes_is_classifier_free():
    x, sigma, cond = examples("any"), jnp.linspace(0.1, 2.0, 5), label(2)
    for weight in (3.0, 1.0, 0.0, guidance.interval(3.0, 0.5, 1.5)):
        plain = guidance.classifier_free(smooth, weight)
        projected = guidance.adaptive_projected(smooth, weight, eta=1.0)
        found = projected(x, sigma, cond)
        np.testing.assert_allclose(found, plain(x, sigma, cond), rtol=1e-13, atol=1e-14)


def test_the_parts_of_the_push_are_orthogonal_and_sum():
    d, direction = jr.normal(jr.key(1), (2, 4, *IMAGE))
    direction = direction.at[0].set(0.0)  # nothing is parallel to 0
    parallel, orthogonal = split_along(d, direction)
    np.testing.assert_allclose(parallel + orthogonal, d, rtol=1e-14, atol=1e-15)
    dot = (orthogonal * direction).sum((1, 2, 3))
    np.testing.assert_allclose(dot, 0.0, atol=1e-13)
    assert (parallel[0] == 0).all()
    cross = np.asarray(parallel)[..., :1] * np.asarray(direction)[..., 1:]
    swapped = np.asarray(parallel)[..., 1:] * np.asarray(direction)[..., :1]
    np.testing.assert_allclose(cross, swapped, atol=1e-14)  # along the direction


def apg_by_hand(conditional, free, running, *, weight, eta, momentum, bound):
    """Algorithm 1 of Sadat et al. 2024, example by example."""
    out, kept = [], []
    for c, u, r in zip(*map(np.asarray, (conditional, free, running)), strict=True):
        diff = (c - u) + momentum * r
        kept.append(diff)
        diff = diff * min(1.0, bound / max(np.linalg.norm(diff), 1e-12))
        unit = c / np.linalg.norm(c)
        parallel = (diff * unit).sum() * unit
        out.append(c + (weight - 1) * (diff - parallel + eta * parallel))
    return np.stack(out), np.stack(kept)


def test_apg_is_its_algorithm_along_a_path_with_momentum():
    options = {"eta": 0.3, "momentum": -0.6, "bound": 0.4}
    x, cond = 20 * examples("any"), label(2)
    guided = guidance.adaptive_projected(smooth, 3.0, **options)
    run = jax.jit(
        lambda x: ss.sample("euler", guided, x, GRID, cond=cond, return_path=True)
    )
    out = run(x)
    running, at = np.zeros(x.shape), np.asarray(x)
    for sigma, below in zip(GRID[:-1], GRID[1:], strict=True):
        pair = branches(jnp.asarray(at), sigma, cond)
        x0, running = apg_by_hand(*pair, running, weight=3.0, **options)
        at = at + (below - sigma) / sigma * (at - x0)
    np.testing.assert_allclose(out.x, at, rtol=1e-10, atol=1e-12)
    # The first step knows no other; the memory changes the later ones.
    first = guidance.adaptive_projected(smooth, 3.0, eta=0.3, bound=0.4)
    np.testing.assert_allclose(out.denoised[0], first(x, GRID[0], cond), rtol=1e-12)
    assert not np.allclose(out.denoised[1], first(out.path[1], GRID[1], cond))


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "euler_ancestral", "ddpm"])
def test_a_memory_costs_no_evaluation_and_no_example_sees_another(sampler):
    calls = []

    def counted(x, sigma, cond=None):
        jax.debug.callback(lambda: calls.append(len(x)))
        return smooth(x, sigma, cond)

    def draw(denoise, x):
        cond, key = label(2, len(x)), jr.key(4)
        return ss.sample(sampler, denoise, x, GRID, cond=cond, key=key)

    make = partial(guidance.adaptive_projected, weight=3.0, momentum=-0.5)
    x = 20 * examples("any")
    out = jax.block_until_ready(jax.jit(partial(draw, make(counted)))(x))
    jax.effects_barrier()
    assert sum(calls) == 2 * len(x) * int(out.num_evals)
    alone = jax.jit(partial(draw, make(smooth)))(x[:1])
    np.testing.assert_allclose(alone.x, out.x[:1], rtol=1e-12, atol=1e-12)


def test_a_memory_is_kept_by_thresholds_and_not_lost_in_silence():
    guided = guidance.adaptive_projected(smooth, 3.0, momentum=-0.5)
    x, cond, passed = 20 * examples("any"), label(2), []
    clipped = guidance.static_threshold(guided, low=-0.2, high=0.2)
    out = ss.sample(
        "euler", clipped, x, GRID, cond=cond, progress=lambda *a: passed.append(a)
    )
    jax.effects_barrier()
    assert float(jnp.abs(out.x).max()) <= 0.2 + 1e-12
    assert sorted(passed) == [(k, 6) for k in range(7)]
    with pytest.raises(ValueError, match="depends on the steps before"):
        guided(x, 0.5, cond)
    with pytest.raises(ValueError, match="depends on the steps before"):
        guidance.autoguidance(guided, smooth, 2.0)(x, 0.5, cond)
    for sampler in ("dpm_adaptive", "repaint"):
        with pytest.raises(ValueError, match="steps of its own, which carry no memory"):
            ss.sample(sampler, guided, x, GRID, cond=cond, key=jr.key(1))
    churned = SAMPLERS["heun"](s_churn=10.0)
    with pytest.raises(ValueError, match="begins a step elsewhere than at x"):
        ss.sample(churned, guided, x, GRID, cond=cond, key=jr.key(1))


# CFG++.


def test_cfg_plus_plus_is_its_algorithm_in_the_coordinates_of_a_chain():
    """Algorithm 2 of Chung et al. 2024, on xt with abar = 1 / (1 + sigma^2)."""
    x, cond, weight = 20 * examples("any"), label(2), 0.6
    guided = guidance.plus_plus(smooth, weight, grid=GRID)
    out = ss.sample("ddim", guided, x, GRID, cond=cond)
    abar = 1 / (1 + np.asarray(GRID) ** 2)
    xt = np.sqrt(abar[0]) * np.asarray(x)
    for k, sigma in enumerate(np.asarray(GRID)[:-1]):
        at = jnp.asarray(xt / np.sqrt(abar[k]))
        eps_c, eps_u = (
            (xt - np.sqrt(abar[k]) * np.asarray(d)) / np.sqrt(1 - abar[k])
            for d in branches(at, sigma, cond)
        )
        eps = eps_u + weight * (eps_c - eps_u)
        x0 = (xt - np.sqrt(1 - abar[k]) * eps) / np.sqrt(abar[k])
        xt = np.sqrt(abar[k + 1]) * x0 + np.sqrt(1 - abar[k + 1]) * eps_u
    np.testing.assert_allclose(out.x, xt, rtol=1e-9, atol=1e-12)


def test_the_limits_of_cfg_plus_plus():
    """Weight 0 is the other branch; weight 1 the condition's in the step to 0 alone."""
    x, cond = 20 * examples("any"), label(2)

    def draw(denoise, told, grid=GRID, start=x):
        return ss.sample("ddim", denoise, start, grid, cond=told).x

    none = draw(guidance.plus_plus(smooth, 0.0, grid=GRID), cond)
    np.testing.assert_allclose(none, draw(smooth, label(-1)), rtol=1e-10, atol=1e-12)
    last = jnp.asarray([0.5, 0.0])
    whole = guidance.plus_plus(smooth, 1.0, grid=last)
    np.testing.assert_allclose(
        draw(whole, cond, last), draw(smooth, cond, last), rtol=1e-12
    )
    # The noise of a step that does not end at 0 is the other branch's.
    step = jnp.asarray([2.0, 1.0])
    found = draw(guidance.plus_plus(smooth, 1.0, grid=step), cond, step)
    target, other = branches(x, 2.0, cond)
    np.testing.assert_allclose(found, target + (x - other) / 2, rtol=1e-11, atol=1e-12)
    same = draw(guidance.plus_plus(smooth, 0.7, grid=GRID), label(-1))
    np.testing.assert_allclose(same, draw(smooth, label(-1)), rtol=1e-10, atol=1e-12)


# CFG-Zero*.


def test_zero_star_is_its_formula_in_the_coordinates_of_a_straight_line():
    """Velocities v of xt = (1 - t) x0 + t eps, sigma = t / (1 - t)."""
    x, cond, weight = examples("any"), label(2), 3.0
    for sigma in (0.2, 1.0, 5.0):
        t = sigma / (1 + sigma)
        xt = np.asarray((1 - t) * x)
        v_c, v_u = ((xt - np.asarray(d)) / t for d in branches(x, sigma, cond))
        s = (v_c * v_u).sum(1, keepdims=True) / (v_u**2).sum(1, keepdims=True)
        expected = xt - t * (s * v_u + weight * (v_c - s * v_u))
        found = guidance.zero_star(smooth, weight)(x, sigma, cond)
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


def test_the_scale_of_zero_star_is_the_nearest_and_one_where_branches_agree():
    a, b = jr.normal(jr.key(1), (2, 4, *IMAGE))
    np.testing.assert_allclose(projection_scale(a, a), 1.0, rtol=1e-14)
    assert projection_scale(a, 0 * a).tolist() == [1.0] * 4
    best = projection_scale(a, b)[:, None, None, None]
    gap = ((a - best * b) ** 2).sum((1, 2, 3))
    for other in (best + 1e-3, best - 1e-3):
        assert (((a - other * b) ** 2).sum((1, 2, 3)) > gap).all()
    x = examples("any")
    agreed = guidance.zero_star(smooth, 4.0)(x, 0.5, label(-1))
    np.testing.assert_allclose(agreed, smooth(x, 0.5, label(-1)), rtol=1e-11)


def test_zero_first_steps_rest_and_cost_nothing():
    x, cond = 20 * examples("any"), label(2)
    guided = guidance.zero_star(smooth, 3.0, zero_above=8.0)
    early = int((GRID > 8.0).sum())
    path = ss.sample("euler", guided, x, GRID, cond=cond, return_path=True).path
    xt = path / (1 + GRID)[:, None, None]
    np.testing.assert_allclose(xt[early], xt[0], rtol=1e-11)
    assert not np.allclose(xt[early + 1], xt[early])
    cost = guidance.network_evals(guided, GRID[:-1])
    assert cost.tolist() == [0] * early + [2] * (6 - early)
    # A level for each example: those that rest rest.
    sigma = jnp.asarray([9.0, 7.0, 20.0, 1.0, 8.0])
    found, plain = guided(x, sigma, cond), guidance.zero_star(smooth, 3.0)
    # Compiled inside a `cond`, and not: equal but for rounding.
    np.testing.assert_allclose(found[1], plain(x, sigma, cond)[1], rtol=1e-13)
    np.testing.assert_allclose(found[0], x[0] / 10, rtol=1e-12)


# Tangential damping, and bands of frequencies.


def test_damping_keeps_the_part_along_the_leading_singular_vector():
    x, sigma, cond = examples("any"), 0.7, label(2)
    score_c, score_u = (
        (np.asarray(d) - np.asarray(x)) / sigma**2 for d in branches(x, sigma, cond)
    )
    v = [
        np.linalg.svd(np.stack(rows), full_matrices=False)[2][0]
        for rows in zip(score_u, score_c, strict=True)
    ]
    damped = np.stack([(u @ d) * d for u, d in zip(score_u, v, strict=True)])
    expected = np.asarray(x) + sigma**2 * (damped + 3.0 * (score_c - damped))
    found = guidance.tangential(smooth, 3.0)(x, sigma, cond)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    a = jr.normal(jr.key(1), (3, 4))
    np.testing.assert_allclose(along_both(a, -2 * a), a, rtol=1e-13)  # on one line
    np.testing.assert_array_equal(along_both(0 * a, 0 * a), 0 * a)


@pytest.mark.parametrize("sides", [(8, 8), (5, 6), (1, 7)])
def test_bands_sum_to_the_image_and_are_bands(sides):
    image = jr.normal(jr.key(1), (2, *sides, 3))
    bands = laplacian_bands(image, 3)
    np.testing.assert_allclose(sum(bands), image, rtol=1e-12, atol=1e-13)
    flat = laplacian_bands(jnp.ones((1, *sides, 1)), 3)
    np.testing.assert_allclose(flat[-1], 1.0, rtol=1e-12)
    for band in flat[:-1]:
        np.testing.assert_allclose(band, 0.0, atol=1e-13)


def test_the_pyramid_filters_by_the_binomial_of_five():
    """The coarse image by scipy, which mirrors at the edges too; a board of squares."""
    image = np.asarray(jr.normal(jr.key(1), (8, 8)))
    taps = np.asarray([1, 4, 6, 4, 1]) / 16
    blurred = image
    for axis in (0, 1):
        blurred = scipy.ndimage.convolve1d(blurred, taps, axis=axis, mode="mirror")
    coarse, up = blurred[::2, ::2], np.zeros((8, 8))
    up[::2, ::2], ones = coarse, np.zeros((8, 8))
    ones[::2, ::2] = 1.0
    # What a coarse pixel gives and gets at the edges: the transpose of the mirror.
    matrix = np.stack(
        [scipy.ndimage.convolve1d(e, taps, mode="mirror")[::2] for e in np.eye(8)]
    )
    back = matrix / matrix.sum(1, keepdims=True)
    expected = back @ coarse @ back.T
    found = laplacian_bands(jnp.asarray(image)[None, :, :, None], 2)[1][0, :, :, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)
    board = jnp.asarray((-1.0) ** np.add.outer(np.arange(8), np.arange(8)))
    fine, rest = laplacian_bands(board[None, :, :, None], 2)
    np.testing.assert_allclose(rest, 0.0, atol=1e-14)  # all of it is the finest band


def test_equal_weights_of_bands_are_classifier_free():
    x, sigma, cond = examples("frequency"), 0.5, label(2)
    banded = guidance.frequency_decoupled(smooth, [3.0, 3.0, 3.0])
    plain = guidance.classifier_free(smooth, 3.0)(x, sigma, cond)
    np.testing.assert_allclose(banded(x, sigma, cond), plain, rtol=1e-11, atol=1e-13)
    target, other = branches(x, sigma, cond)
    fine, rest = laplacian_bands(target - other, 2)
    found = guidance.frequency_decoupled(smooth, [4.0, 0.5])(x, sigma, cond)
    np.testing.assert_allclose(found, other + 4 * fine + 0.5 * rest, rtol=1e-12)
    with pytest.raises(ValueError, match="are for images"):
        banded(x.reshape(5, -1), sigma, cond)


# The same everywhere.


@pytest.mark.parametrize("name", unless("projected".__eq__, VARIANTS))
def test_variants_work_under_jit_vmap_grad_and_in_float32(name):
    x, sigma, cond = examples(name), jnp.linspace(0.1, 6.0, 5), label(2)
    guided = VARIANTS[name](smooth, weight=3.0)
    whole = jax.jit(guided)(x, sigma, cond)

    def one(x, sigma, cond):
        return guided(x[None], sigma, jax.tree.map(lambda c: c[None], cond))[0]

    each = jax.jit(jax.vmap(one))(x, sigma, cond)
    np.testing.assert_allclose(each, whole, rtol=1e-11, atol=1e-13)
    total = lambda x: guided(x, sigma, cond).sum()  # noqa: E731
    slope = jax.jit(jax.grad(total))(x)
    tangent = jax.jit(lambda x: jax.jvp(total, (x,), (x,))[1])(x)
    assert float((slope * x).sum()) == pytest.approx(float(tangent), rel=1e-9)
    single = jax.eval_shape(guided, x.astype(jnp.float32), 0.5, cond)
    assert single.dtype == jnp.float32
    assert int(guidance.network_evals(guided, 0.5)) == 2
    with pytest.raises(ValueError, match="needs a condition"):
        guided(x, 0.5)


@sweep
def test_a_weight_of_one_is_the_model_itself(name):
    if name == "plus_plus":
        return  # its weight is another: see its limits
    x, cond = examples(name), label(2)
    calls = {"projected": 1.0, "zero_star": 1.0, "tangential": 1.0}
    if name in calls:
        guided = VARIANTS[name](smooth, weight=1.0)
    else:
        guided = guidance.frequency_decoupled(smooth, [1.0, 1.0])
    # The same program: one that is compiled rounds otherwise than its operations do.
    found, model = (jax.jit(f)(x, 0.5, cond) for f in (guided, smooth))
    np.testing.assert_array_equal(found, model)
    np.testing.assert_allclose(guided(x, 0.5, cond), smooth(x, 0.5, cond), rtol=1e-15)
    assert int(guidance.network_evals(guided, 0.5)) == 1


def test_a_conditional_law_is_kept_at_weight_one():
    cond = label(1)
    x, sigma = jr.normal(jr.key(3), (5, 2)), 0.5
    exact = LABELLED.given(1).denoise(x, sigma)
    for make in (guidance.adaptive_projected, guidance.tangential, guidance.zero_star):
        found = jax.jit(make(LABELLED.denoise, 1.0))(x, sigma, cond)
        np.testing.assert_allclose(found, exact, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g: g.adaptive_projected(smooth, float("nan")), "weight is nan"),
        (lambda g: g.adaptive_projected(smooth, 2.0, momentum=1.0), "momentum is 1.0"),
        (lambda g: g.adaptive_projected(smooth, 2.0, bound=0.0), "bound is 0.0"),
        (lambda g: g.plus_plus(smooth, float("inf"), grid=GRID), "weight is inf"),
        (lambda g: g.zero_star(smooth, 2.0, zero_above=0.0), "zero_above is 0.0"),
        (lambda g: g.frequency_decoupled(smooth, []), "a weight for each band"),
        (
            lambda g: g.GUIDANCES["frequency"](smooth, weights=()),
            "one or more numbers",
        ),
        (
            lambda g: g.GUIDANCES["perturbed"](smooth, perturbed=None, attention=()),
            "skip and attention are both empty",
        ),
        (
            lambda g: g.GUIDANCES["tangential"](smooth, sigma_low=2.0, sigma_high=1.0),
            "sigma_low 2.0 must be below sigma_high 1.0",
        ),
        (
            lambda g: g.dynamic_threshold(smooth, limit=1.0, highest=0.5),
            "limit <= highest, got 1.0 and 0.5",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(guidance)


def test_a_bounded_dynamic_threshold_clips_at_its_highest():
    x0 = 3 * np.asarray(jr.normal(jr.key(5), (4, 50)))
    given = lambda x, sigma, cond=None: jnp.asarray(x0)  # noqa: E731
    found = guidance.dynamic_threshold(given, percentile=90.0, highest=1.5)(x0, 0.5)
    for row, out in zip(x0, found, strict=True):
        s = min(max(1.0, np.percentile(np.abs(row), 90.0)), 1.5)
        np.testing.assert_allclose(out, np.clip(row, -s, s) / s, rtol=1e-12)
    static = guidance.static_threshold(given)(x0, 0.5)
    at_limit = guidance.dynamic_threshold(given, percentile=90.0, highest=1.0)(x0, 0.5)
    np.testing.assert_array_equal(at_limit, static)


# Networks with parts left out.


def unet(**options):
    module = UNet(
        **{"channels": 8, "multipliers": (1,), "blocks_per_level": 1} | options,
        attention_resolutions=(8,),
    )
    network = from_linen(module, (8, 8, 1))
    random = np.random.RandomState(2)
    params = jax.tree.map(
        lambda p: np.float32(0.3 * random.normal(size=p.shape)),
        jax.eval_shape(network.init, jr.key(0)),
    )
    return network, params


def test_parts_of_a_network_can_be_left_out():
    network, params = unet()
    x, noise = jr.normal(jr.key(1), (2, 8, 8, 1), jnp.float32), ZEROS
    whole = network.apply(params, x, noise)
    blind = perturbed(network, attention=["*"]).apply(params, x, noise)
    skipped = perturbed(network, skip=["*Attention_0"]).apply(params, x, noise)
    assert not np.allclose(whole, blind)
    assert not np.allclose(whole, skipped)
    assert not np.allclose(blind, skipped)
    # Attention whose queries are 0 gives the mean of the values; blind, the values.
    # Without values at all there is nothing to attend to, blind or not.
    silent = jax.tree_util.tree_map_with_path(
        lambda path, p: 0 * p if "Attention" in str(path) else p, params
    )
    same = perturbed(network, attention=["*"]).apply(silent, x, noise)
    np.testing.assert_array_equal(same, network.apply(silent, x, noise))
    gone = perturbed(network, skip=["*Attention_0"]).apply(silent, x, noise)
    np.testing.assert_allclose(gone, network.apply(silent, x, noise), atol=1e-6)
    np.testing.assert_array_equal(network.apply(params, x, noise), whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": ["Blok"]}, "the network has no module 'Blok'"),
        ({"attention": ["Conv_0"]}, "there is no self-attention in these modules"),
        ({"skip": ["Conv_0"]}, "can't be skipped: it is given shape"),
    ],
)
def test_parts_that_are_not_there_are_named(options, message):
    network, params = unet()
    x = jnp.ones((2, 8, 8, 1), jnp.float32)
    with pytest.raises(UserError, match=message):
        perturbed(network, **options).apply(params, x, ZEROS)


@pytest.mark.slow
def test_a_config_guides_away_from_its_own_network_and_by_its_own_grid():
    config = load_config(f"{ROOT}/configs/digits.py:label", Path())
    small = {"channels": 8, "multipliers": (1,), "attention_resolutions": (8,)}
    config["network"] |= small
    config["guidance"] = {"name": "perturbed", "weight": 3.0, "attention": ("*",)}
    made = build(config)
    assert made.drawing.roles == ()
    assert made.drawing.own == ("perturbed",)
    random = np.random.RandomState(0)
    shapes = jax.eval_shape(lambda: initial_params(made))
    params = jax.tree.map(
        lambda p: jnp.asarray(0.3 * random.normal(size=p.shape), p.dtype), shapes
    )
    x = jr.normal(jr.key(1), (2, *made.model.shape), jnp.float32)
    cond = label(3, 2)
    blind = perturbed(made.model.network, attention=["*"])

    @jax.jit
    def both(x):
        good = denoiser(made.model, params)(x, 0.5, cond)
        bad = denoiser(made.model._replace(network=blind), params)(x, 0.5, cond)
        found = guided_denoiser(made.model, made.drawing, params)(x, 0.5, cond)
        return found, bad + 3 * (good - bad)

    found, expected = both(x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    config["guidance"] = {"name": "plus_plus", "weight": 0.5}
    config["sampler"] = {"name": "euler"}
    made = build(config)
    assert made.drawing.own == ("grid",)
    grid = made.drawing.grid()

    @jax.jit
    def guided(x):
        plain = guidance.plus_plus(denoiser(made.model, params), 0.5, grid=grid)
        drawn = guided_denoiser(made.model, made.drawing, params)
        return drawn(x, 0.5, cond), plain(x, 0.5, cond)

    np.testing.assert_allclose(*guided(x), rtol=1e-4, atol=1e-4)
