"""Data of any rank: what networks take, what they refuse, and how ranks are related."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import unless

from score_sde.networks import (
    ADM,
    EDM2,
    MLP,
    ControlledUNet,
    CrossUNet,
    DDPMUNet,
    DiT,
    SongUNet,
    TextUNet,
    UNet,
    from_linen,
    predicts_variance,
    problems_of,
    reads,
)
from score_sde.networks.blocks import downsample, upsample

SPACES = {1: (8,), 2: (8, 4), 3: (4, 2, 2)}
SMALL = {"channels": 8, "multipliers": (1, 2), "blocks_per_level": 1}
UNETS = {
    "unet": UNet(
        **SMALL,
        attention_resolutions=(4,),
        num_heads=2,
        input_frequencies=(1.0,),
        num_classes=3,
    ),
    "cross_unet": CrossUNet(**SMALL, attention_resolutions=(4,), token_dims=5),
    "text_unet": TextUNet(num_words=6, text_width=8, **SMALL),
    "controlled_unet": ControlledUNet(trunk=UNet(**SMALL, num_classes=3)),
}


def cond_of(module, num, space):
    """All that a network of `UNETS` reads."""
    entries = {
        "label": jnp.arange(num) % 3,
        "tokens": jnp.ones((num, 4, 5), jnp.float32),
        "words": jnp.arange(4 * num).reshape(num, 4) % 6,
        "image": jnp.ones((num, *space, 1), jnp.float32),
    }
    told = getattr(module, "trunk", module)
    built_for = {
        "label": getattr(told, "num_classes", 0),
        "tokens": getattr(module, "token_dims", 0),
    }
    return {
        name: value
        for name, value in entries.items()
        if name in reads(module) and built_for.get(name, True)
    }


def random_params(network):
    random = np.random.RandomState(2)
    shapes = jax.eval_shape(network.init, jr.key(0))
    return jax.tree.map(
        lambda s: jnp.asarray(0.3 * random.normal(size=s.shape), s.dtype), shapes
    )


@pytest.mark.parametrize("rank", unless((1).__eq__, [1, 3]))
@pytest.mark.parametrize(
    "name",
    ["unet", *(pytest.param(n, marks=pytest.mark.slow) for n in UNETS if n != "unet")],
)
def test_unets_take_series_and_volumes(name, rank):
    module, shape = UNETS[name], (*SPACES[rank], 2)
    assert problems_of(module, shape) == []
    network = from_linen(module, shape, cond_of(module, 1, shape[:-1]))
    x = jr.normal(jr.key(1), (2, *shape), jnp.float32)
    noise, cond = jnp.ones(2, jnp.float32), cond_of(module, 2, shape[:-1])

    @jax.jit
    def value_and_slope(params, x):
        def loss(params, x):
            out = network.apply(params, x, noise, cond)
            return (out**2).mean(), out

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)

    (_, out), slopes = value_and_slope(random_params(network), x)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    for leaf in jax.tree.leaves(slopes):
        assert np.isfinite(leaf).all()
    assert (slopes[1] != 0).all()


def planted(params, higher):
    """Parameters of one rank more, whose kernels are zero but in the middle plane.

    Such a network does to every plane of its input what the one of the lower rank does.
    """

    def one(leaf, like):
        if leaf.shape == like.shape:
            return leaf
        middle = like.shape[leaf.ndim - 2] // 2
        index = (slice(None),) * (leaf.ndim - 2) + (middle,)
        return jnp.zeros(like.shape, leaf.dtype).at[index].set(leaf)

    return jax.tree.map(one, params, higher)


@pytest.mark.slow
@pytest.mark.parametrize("rank", unless((1).__eq__, [1, 2]))
@pytest.mark.parametrize(
    "name", ["unet", pytest.param("cross_unet", marks=pytest.mark.slow)]
)
def test_what_is_constant_along_an_axis_needs_no_such_axis(name, rank, key):
    """Norms and attention see copies of all positions, which changes no average."""
    module, space = UNETS[name], SPACES[rank]
    low, high = (
        from_linen(module, (*sides, 2), cond_of(module, 1, sides))
        for sides in (space, (*space, 6))
    )
    params = random_params(low)
    x = jr.normal(key, (2, *space, 2), jnp.float32)
    repeated = jnp.repeat(x[..., None, :], 6, axis=-2)
    noise, cond = jnp.ones(2, jnp.float32), cond_of(module, 2, space)
    out = jax.jit(low.apply)(params, x, noise, cond)
    wider = planted(params, jax.eval_shape(high.init, jr.key(0)))
    out_wider = jax.jit(high.apply)(wider, repeated, noise, cond)
    expected = np.repeat(np.asarray(out)[..., None, :], 6, axis=-2)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(out_wider, expected, atol=2e-5)  # rounding


def test_resampling_of_any_rank_is_that_of_each_axis():
    x = jnp.asarray(np.random.RandomState(0).normal(size=(2, 4, 6, 2, 3)))
    halved = x
    for axis in (1, 2, 3):
        even, odd = (
            jnp.take(halved, jnp.arange(start, halved.shape[axis], 2), axis=axis)
            for start in (0, 1)
        )
        halved = (even + odd) / 2
    np.testing.assert_allclose(downsample(x), halved, rtol=1e-12)
    np.testing.assert_allclose(downsample(upsample(x)), x, rtol=1e-12)
    assert upsample(x[:, :, 0, 0]).shape == (2, 8, 3)


def test_the_mlp_takes_data_of_any_shape_as_points(key):
    module, shape = MLP(width=8, depth=1), (3, 2, 2)
    flat, whole = (from_linen(module, s) for s in ((12,), shape))
    params = random_params(flat)
    same = jax.tree.map(
        lambda a, b: a.shape == b.shape, params, jax.eval_shape(whole.init, key)
    )
    assert jax.tree.all(same)
    x, noise = jr.normal(key, (4, *shape), jnp.float32), jnp.ones(4, jnp.float32)
    out = whole.apply(params, x, noise)
    expected = flat.apply(params, x.reshape(4, -1), noise)
    np.testing.assert_array_equal(out, expected.reshape(x.shape))
    assert problems_of(module, shape) == []


IMAGES = "it takes images [height, width, channels], not data of shape (2,)"
PROBLEMS = [
    (UNet(), (2,), "it takes series [length, channels], images [height, width, "),
    (UNet(), (2, 2, 2, 2, 1), "it takes series [length, channels], images [height,"),
    (
        UNet(multipliers=(1, 1, 1, 1)),
        (12, 12, 3),
        "multipliers halve the image 3 times; its sides, (12, 12), must be multiples "
        "of 8",
    ),
    (UNet(), (9, 1), "multipliers halve the series 1 times; its sides, (9,), must"),
    (
        UNet(attention_resolutions=(16,)),
        (8, 8, 1),
        "attention_resolutions has 16; choose from [8, 4]",
    ),
    (
        UNet(attention_resolutions=(4,), num_heads=3),
        (8, 8, 1),
        "num_heads is 3; it must divide the 128 channels of a level with attention",
    ),
    (TextUNet(num_words=3, text_width=6), (8, 8, 1), "text_width is 6; it must be a"),
    (DDPMUNet(), (2,), IMAGES),
    (
        DDPMUNet(channels=48),
        (32, 32, 3),
        "channels: 48 channels can't be normalised in 32 groups; make the widths of",
    ),
    (SongUNet(), (12, 12, 3), "multipliers halve the image 3 times"),
    (
        EDM2(channels=24, channels_per_head=48),
        (64, 64, 3),
        "channels_per_head is 48; it must divide the 72 channels of a level with",
    ),
    (
        ADM(channels=32, channels_per_head=0, num_heads=5),
        (64, 64, 3),
        "num_heads is 5; it must divide the 64 channels of a level with attention",
    ),
    (
        ADM(channels=32, channels_per_head=0, num_heads_upsample=5),
        (64, 64, 3),
        "num_heads_upsample is 5; it must divide the 64 channels of a level with",
    ),
    (
        ADM(channels=64, num_heads_upsample=2),
        (64, 64, 3),
        "num_heads_upsample is 2; it counts where channels_per_head is 0",
    ),
    (DiT(patch_size=3), (8, 8, 4), "patch_size is 3; it must divide the sides, (8, 8)"),
    (
        DiT(hidden_size=18, num_heads=3),
        (8, 8, 4),
        "hidden_size is 18; it must be a multiple of 4 and of num_heads, 3",
    ),
    (DiT(), (2,), IMAGES),
]


@pytest.mark.parametrize(("module", "shape", "text"), PROBLEMS)
def test_a_network_states_why_it_does_not_take_some_data(module, shape, text):
    problems = problems_of(module, shape)
    assert any(problem.startswith(text) for problem in problems), problems


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (UNet(multipliers=(1, 1, 1, 1)), (12, 12, 3)),
        (UNet(attention_resolutions=(4,), num_heads=3), (8, 8, 1)),
        (DDPMUNet(channels=48), (32, 32, 3)),
        (DiT(patch_size=3), (8, 8, 4)),
        (DiT(hidden_size=18, num_heads=4), (8, 8, 4)),
    ],
)
def test_what_is_stated_to_be_wrong_does_not_compute(module, shape):
    assert problems_of(module, shape)
    with pytest.raises((ValueError, TypeError)):
        jax.eval_shape(from_linen(module, shape).init, jr.key(0))


@pytest.mark.parametrize(
    "module", [UNet(), DDPMUNet(), SongUNet(), ADM(), EDM2(), DiT(), MLP()]
)
def test_default_options_take_small_images(module):
    assert problems_of(module, (64, 64, 3)) == []


def test_networks_state_whether_they_predict_variances():
    assert predicts_variance(DiT())
    assert not predicts_variance(DiT(learn_sigma=False))
    assert predicts_variance(ADM(learn_sigma=True))
    assert not any(map(predicts_variance, (ADM(), UNet(), MLP(), DDPMUNet(), EDM2())))


def test_adm_attends_by_heads_of_its_own_on_the_way_up():
    """As guided-diffusion: in the blocks that join the way down, not in the middle."""
    found = {}

    def record(call, args, options, context):
        if hasattr(context.module, "num_heads") and context.module.name:
            found[context.module.name] = context.module.num_heads
        return call(*args, **options)

    options = {"channels": 32, "multipliers": (1, 1), "blocks_per_level": 1}
    options |= {"attention_resolutions": (8,), "channels_per_head": 0, "num_heads": 2}
    module = ADM(**options, num_heads_upsample=4)
    with nn.intercept_methods(record):
        x, noise = jnp.ones((1, 16, 16, 3), jnp.float32), jnp.zeros(1, jnp.float32)
        jax.eval_shape(module.init, jax.random.key(0), x, noise)
    heads = {name: n for name, n in found.items() if n}
    assert heads == {
        "enc_8x8_block0": 2,
        "dec_8x8_in0": 2,
        "dec_8x8_block0": 4,
        "dec_8x8_block1": 4,
    }
