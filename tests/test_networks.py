import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import unless

from score_sde.fields import MISSING, fields_of, value_problem
from score_sde.networks import NETWORKS, count_parameters, from_linen
from score_sde.networks.blocks import (
    downsample,
    fourier_embedding,
    positional_embedding,
    upsample,
)

SMALL = {
    "unet": {"channels": 8, "multipliers": (1, 2), "blocks_per_level": 1},
    "mlp": {"width": 16, "depth": 2},
    "ddpm": {"channels": 32, "multipliers": (1,), "blocks_per_level": 1},
    "song_unet": {"channels": 8, "multipliers": (1,), "blocks_per_level": 1},
    "adm": {
        "channels": 8,
        "multipliers": (1,),
        "blocks_per_level": 1,
        "channels_per_head": 8,
    },
    "edm2": {
        "channels": 8,
        "multipliers": (1, 2),
        "blocks_per_level": 1,
        "attention_resolutions": (),
        "channels_per_head": 8,
        "logvar_channels": 4,
    },
    "dit": {"hidden_size": 16, "depth": 1, "num_heads": 2, "learn_sigma": False},
    "cross_unet": {
        "channels": 8,
        "multipliers": (1, 2),
        "blocks_per_level": 1,
        "attention_resolutions": (4,),
    },
}
SHAPES = {name: (2,) if name == "mlp" else (8, 8, 3) for name in SMALL}
# What reads words and what is controlled have tests in test_captions, test_conditions;
# the classifier, whose output is unlike its input, in test_guidance.
OTHERS = ("text_unet", "controlled_unet", "classifier")
NAMES = [name for name in NETWORKS if name not in OTHERS]
sweep = pytest.mark.parametrize("name", NAMES)
FEW = ("unet", "mlp", "dit")
sweep_few = pytest.mark.parametrize("name", unless(FEW.__contains__, NAMES))


def sweep_with(field):
    """Over the networks that have an option."""
    having = [name for name in NAMES if hasattr(NETWORKS[name], field)]
    return pytest.mark.parametrize("name", unless(FEW.__contains__, having))


def made(name, cond=None, **options):
    module = NETWORKS[name](**SMALL[name] | options)
    network = from_linen(module, SHAPES[name], cond)
    return network._replace(apply=jax.jit(network.apply))


def inputs(name, num=3):
    x = jr.normal(jr.key(1), (num, *SHAPES[name]), jnp.float32)
    return x, jnp.linspace(-1, 1, num, dtype=jnp.float32)


def randomised(params):
    """Parameters away from their zeros; by NumPy, which compiles nothing."""
    random = np.random.RandomState(2)

    def move(p):
        return p + jnp.asarray(0.2 * random.normal(size=p.shape), p.dtype)

    return jax.tree.map(move, params)


def random_params(network):
    """Parameters of any size, without the compiled initialisation."""
    random = np.random.RandomState(2)

    def drawn(path, shape):
        at = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(at + 0.2 * random.normal(size=shape.shape), shape.dtype)

    shapes = jax.eval_shape(network.init, jr.key(0))
    return jax.tree_util.tree_map_with_path(drawn, shapes)


@functools.cache
def moved(name):
    """(compiled network, initial parameters, others) of the defaults, once."""
    network = made(name)
    initial = network.init(jr.key(0))
    return network, initial, randomised(initial)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_option_states_its_rule_and_its_default_obeys_it(name):
    fields = fields_of(NETWORKS[name], without={"parent", "name"})
    for field in fields.values():
        assert field.rules or field.kind in (bool, nn.Module), field
        if field.default is not MISSING:
            assert value_problem(field, field.default) is None, field


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("unet", "channels", 0),
        ("unet", "multipliers", ()),
        ("unet", "multipliers", (1, -2)),
        ("ddpm", "dropout", 1.0),
        ("unet", "input_frequencies", (float("inf"),)),
        ("mlp", "embedding", "fourrier"),
        ("song_unet", "resample_filter", (1, 2, 1)),
        ("song_unet", "progressive_input", "skip"),
        ("edm2", "res_balance", 1.5),
        ("edm2", "channels_per_head", 0),
        ("dit", "dtype", "float16"),
        ("dit", "num_heads", 2.0),
    ],
)
def test_an_option_outside_its_rule_is_found(name, option, value):
    fields = fields_of(NETWORKS[name])
    assert value_problem(fields[option], value)


@sweep_few
def test_output_is_like_the_input_and_zero_at_first(name):
    network, initial, params = moved(name)
    x, noise = inputs(name)
    out = network.apply(initial, x, noise)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    # The last layers of Song et al. begin at 1e-5 of the others, not at zero.
    assert np.abs(out).max() <= (1e-3 if name in ("ddpm", "song_unet") else 0)
    assert (network.apply(params, x, noise) != 0).all()


@sweep_few
def test_examples_do_not_see_each_other(name):
    network, _, params = moved(name)
    x, noise = inputs(name)
    others = x.at[1:].multiply(-2.0), noise.at[1:].add(1.0)
    np.testing.assert_allclose(
        network.apply(params, *others)[0],
        network.apply(params, x, noise)[0],
        atol=1e-5,  # rounding
    )


@pytest.mark.parametrize("name", unless(lambda n: n in ("unet", "mlp", "dit"), NAMES))
def test_the_noise_level_matters(name):
    network, _, params = moved(name)
    x, noise = inputs(name)
    assert (
        network.apply(params, x, noise) != network.apply(params, x, noise + 1)
    ).any()


@sweep_with("embedding")
@pytest.mark.parametrize("embedding", ["positional", "fourier"])
def test_any_embedding(name, embedding, key):
    network = made(name, embedding=embedding)
    x, noise = inputs(name)
    out = network.apply(random_params(network), x, noise)
    assert np.isfinite(out).all()


@sweep_with("dropout")
def test_dropout_needs_a_key_and_without_one_there_is_none(name, key):
    network = made(name, dropout=0.5)
    params = random_params(network)
    x, noise = inputs(name)
    once, again = (network.apply(params, x, noise) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    dropped = network.apply(params, x, noise, dropout_key=key)
    assert (dropped != once).any()
    np.testing.assert_array_equal(
        network.apply(params, x, noise, dropout_key=key), dropped
    )


@sweep_with("vector_dims")
def test_class_and_vector_conditions(name, key):
    cond = {"label": jnp.zeros(1, jnp.int32), "vector": jnp.zeros((1, 5), jnp.float32)}
    network = made(name, cond, num_classes=10, vector_dims=5)
    params = random_params(network)
    x, noise = inputs(name)
    first = {"label": jnp.zeros(3, jnp.int32), "vector": jnp.zeros((3, 5), jnp.float32)}
    plain = network.apply(params, x, noise, first)
    for name_, value in (
        ("label", first["label"] + 1),
        ("vector", first["vector"] + 1),
    ):
        assert (network.apply(params, x, noise, first | {name_: value}) != plain).any()
    with pytest.raises(ValueError, match=r"needs cond\['label'\]"):
        network.apply(params, x, noise, {"vector": first["vector"]})
    with pytest.raises(ValueError, match=r"needs cond\['label'\]"):
        network.apply(params, x, noise)


def test_attention_and_input_frequencies(key):
    network = made(
        "unet", attention_resolutions=(4,), num_heads=2, input_frequencies=(1.0, 7.5)
    )
    x, noise = inputs("unet")
    out = network.apply(random_params(network), x, noise)
    assert np.isfinite(out).all()


def test_attention_sees_all_pixels(key):
    """Without attention a corner can't reach the opposite one through these blocks."""
    x, noise = inputs("unet", 1)

    def reach(options):
        network = made("unet", multipliers=(1,), **options)
        params = random_params(network)
        sensitivity = jax.jacfwd(lambda x: network.apply(params, x, noise)[0, 0, 0])(x)
        return np.abs(sensitivity[..., 7, 7, :]).max()

    assert reach({"attention_resolutions": (8,)}) > 1e-6


@sweep_few
def test_networks_are_differentiable_forwards(name, standard_promotion):
    """The likelihood needs forward mode; it equals the difference quotient."""
    network, _, params = moved(name)
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    x, noise = (a.astype(jnp.float64) for a in inputs(name))
    v = jr.normal(jr.key(3), x.shape)

    @jax.jit
    def value_and_slope(x):
        return jax.jvp(lambda x: network.apply(params, x, noise), (x,), (v,))

    step = 1e-5
    (up, _), (down, _) = (value_and_slope(x + s * v) for s in (step, -step))
    slope = value_and_slope(x)[1]
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-4, atol=1e-6)


def test_the_mlp_has_the_parameters_of_its_formula(key):
    width, depth, dims = 16, 2, 2
    embedding = 2 * (width * width + width)
    block = 2 * width + (width + 1) * 2 * width + 2 * (width + 1) * width
    expected = (
        embedding + (dims + 1) * width + depth * block + 2 * width + (width + 1) * dims
    )
    assert count_parameters(made("mlp").init(key)) == expected


def test_resampling():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(downsample(x)[0, ..., 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(downsample(upsample(x)), x)


def test_embeddings_are_bounded_and_tell_levels_apart():
    noise = jnp.linspace(-1.5, 1.1, 200)
    for embedding in (
        positional_embedding(noise, 32, scale=4.0),
        fourier_embedding(noise, 32),
    ):
        assert embedding.shape == (200, 32)
        assert np.abs(embedding).max() <= 1
        gaps = np.linalg.norm(embedding[:, None] - embedding[None], axis=-1)
        assert gaps[~np.eye(200, dtype=bool)].min() > 1e-3
