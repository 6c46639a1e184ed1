"""Autoencoders against the outputs, names and counts of the published programs."""

import functools
import json

import jax
import jax.numpy as jnp
import latents_cases as cases
import numpy as np
import pytest
import seeded_weights
from cases import unless

from score_sde.latents import (
    AUTOENCODERS,
    DeepAutoencoder,
    TinyAutoencoder,
    deep,
    representation,
)
from score_sde.networks import count_parameters, from_linen
from score_sde.networks.features import dinov2
from score_sde.networks.network import is_frozen
from score_sde.types import UserError
from score_sde.weights import StateDict, fit, published_arrays, read, state_dict
from score_sde.weights.published import PUBLISHED, autoencoders

PUBLISHED_NAMES = {
    **{
        f"latent_diffusion/{name}": (name, autoencoders.compvis_tensors)
        for name in (
            *("kl-f4", "kl-f8", "kl-f16", "kl-f32"),
            *("vq-f4", "vq-f4-noattn", "vq-f8", "vq-f8-n256", "vq-f16"),
        )
    },
    "diffusers/sd-vae": ("diffusers/sd1-sd2-sdxl", autoencoders.diffusers_tensors),
    "diffusers/sd3-vae": ("diffusers/sd3-flux", autoencoders.diffusers_tensors),
    "diffusers/taesd": ("diffusers/taesd", autoencoders.tiny_tensors),
    "diffusers/dc-ae-f32c32": ("diffusers/dc-f32c32", autoencoders.deep_tensors),
}
"""Name here -> (name in the list of published tensors, our table of their names)."""
QUICK = ("latent_diffusion/kl-f8", "latent_diffusion/vq-f8", "diffusers/taesd")


def test_all_published_autoencoders_are_compared():
    known = {n for n, facts in PUBLISHED.items() if facts.objective == "autoencoder"}
    assert known == PUBLISHED_NAMES.keys()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in PUBLISHED_NAMES
    ],
)
def test_names_shapes_and_counts_are_the_published_ones(name):
    there, tensors = PUBLISHED_NAMES[name]
    facts = cases.published()[there]
    module = AUTOENCODERS[PUBLISHED[name].network](**PUBLISHED[name].options)
    assert module.problems(module.shape) == []
    like = cases.shapes_of(module)
    assert count_parameters(like) == facts["num_params"]
    table = tensors(module, module.shape)
    found = {}
    for tensor in table:
        if not tensor.unused:
            leaf = like
            for word in tensor.path:
                leaf = leaf[word]
            empty = np.broadcast_to(np.float32(0), leaf.shape)
            found[tensor.name] = list(tensor.layout.to_published(empty).shape)
    assert found == {name: shape for name, shape, *_ in facts["tensors"]}


@pytest.mark.parametrize(
    "case", unless("kl_diffusers".__eq__, ["kl_compvis", "kl_diffusers"])
)
def test_a_kl_autoencoder_computes_what_the_published_program_does(case):
    facts = cases.CASES[case]
    coder, params = cases.loaded(case)
    assert count_parameters(params) == facts["out"]["num_params"]
    x = cases.images(facts["in"]["images"])
    posterior = jax.jit(coder.encode)(params, x)
    out = facts["out"]
    cases.assert_near(posterior.mean, cases.value(out["mean"]))
    cases.assert_near(posterior.log_variance, cases.value(out["logvar"]))
    noise = jnp.asarray(cases.value(facts["in"]["noise"]))
    z = posterior.mean + posterior.std * noise
    cases.assert_near(z, cases.value(out["sample"]))
    cases.assert_near(
        jax.jit(coder.decode)(params, z), cases.value(out["reconstruction"])
    )
    cases.assert_near(posterior.divergence(), out["kl_per_image"])
    if "nll_of_sample" in out:
        cases.assert_near(-posterior.log_prob(z), out["nll_of_sample"])


@pytest.mark.parametrize(
    "case", unless("vq_compvis".__eq__, ["vq_compvis", "vq_diffusers"])
)
def test_a_vq_autoencoder_computes_what_the_published_program_does(case):
    facts = cases.CASES[case]
    coder, params = cases.loaded(case)
    out = facts["out"]
    assert count_parameters(params) == out["num_params"]
    z = jax.jit(coder.encode)(params, cases.images(facts["in"]["images"])).mean
    cases.assert_near(z, cases.value(out["before"]))
    indices = cases.value(out["indices"]).reshape(z.shape[:-1])
    assert (np.asarray(coder.codes(params, z)) == indices).all()
    found = coder.bottleneck(params, jax.random.key(0), posterior_of(z), 768)
    cases.assert_near(found.latents, cases.value(out["quantised"]))
    loss = out.get("codebook_loss_legacy", out["codebook_loss"])
    np.testing.assert_allclose(found.penalty.mean(), loss, rtol=1e-9)
    images = jax.jit(coder.decode)(params, z)
    rendered = jax.jit(coder.render)(params, found.latents)
    for found in (images, rendered):
        cases.assert_near(found, cases.value(out["reconstruction"]))


def posterior_of(z):
    from score_sde.latents import Posterior

    return Posterior(z)


SMALL = {
    "tiny": (
        TinyAutoencoder((16, 24, 3), channels=8),
        autoencoders.tiny_tensors,
    ),
    "deep": (
        DeepAutoencoder(
            (16, 16, 3),
            4,
            channels=8,
            multipliers=(1, 2, 2),
            blocks=(1, 1, 2),
            decoder_blocks=(2, 1, 1),
            attention_from=1,
            channels_per_head=4,
        ),
        autoencoders.deep_tensors,
    ),
}


@pytest.mark.parametrize(
    ("case", "which", "sides"),
    [
        ("tiny", "tiny", (16, 24)),
        ("deep8", "deep", (8, 8)),
        pytest.param("deep16", "deep", (16, 16), marks=pytest.mark.slow),
    ],
)
def test_other_architectures_compute_what_diffusers_does(case, which, sides):
    # At 8x8 attention has fewer positions than channels of a head, which diffusers
    # normalises otherwise.
    module, tensors = SMALL[which]
    names = json.loads((cases.FOLDER / "names_diffusers.json").read_text())[which]
    state = {n: seeded_weights.tensor(n, tuple(shape), 0) for n, shape in names}
    table = {"diffusers": tensors(module, module.shape)}
    _, params = fit(StateDict(state, []), table, cases.shapes_of(module))
    coder, params = module.parts(), cases.doubled(params)
    x = seeded_weights.uniform(case, (2, 3, *sides), 0).transpose(0, 2, 3, 1)
    arrays = np.load(cases.FOLDER / "diffusers.npz")
    z = jax.jit(coder.encode)(params, jnp.asarray(x)).mean
    # diffusers takes the products of linear attention in float32, whatever the rest.
    tolerance = 1e-9 if case == "tiny" else 1e-5
    cases.assert_near(z, arrays[f"{case}/latents"], tolerance)
    found = jax.jit(coder.decode)(params, jnp.asarray(arrays[f"{case}/latents"]))
    cases.assert_near(found, arrays[f"{case}/reconstruction"], tolerance)


@pytest.mark.parametrize("case", ["kl_diffusers", "vq_diffusers"])
def test_a_file_is_imported_and_exported_tensor_by_tensor(case, tmp_path):
    module = cases.MODULES[case]
    file = cases.FOLDER / f"{case}.safetensors"
    tables = {
        "compvis": autoencoders.compvis_tensors(module, module.shape),
        "diffusers": autoencoders.diffusers_tensors(module, module.shape),
    }
    state = state_dict(read(file))
    program, params = fit(state, tables, cases.shapes_of(module))
    assert program == "diffusers"
    back = published_arrays(params, tables["diffusers"])
    assert back.keys() == state.named.keys()
    for name, array in back.items():
        assert (array == state.named[name]).all()
    # By the names of the other program they are the same parameters.
    there = published_arrays(params, tables["compvis"])
    program, again = fit(StateDict(there, []), tables, cases.shapes_of(module))
    assert program == "compvis"
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), params, again))


def test_the_autoencoder_is_found_in_a_file_of_a_whole_latent_diffusion():
    module = cases.MODULES["vq_compvis"]
    tables = {"compvis": autoencoders.compvis_tensors(module, module.shape)}
    own = cases.seeded("vq_compvis")
    inside = {f"first_stage_model.{name}": a for name, a in own.items()}
    rest = {
        "first_stage_model.loss.discriminator.main.0.weight": np.zeros(3),
        "first_stage_model.model_ema.encoderconv_inweight": np.zeros(3),
        "model.diffusion_model.out.2.weight": np.zeros(3),
        "scale_factor": np.zeros(()),
    }
    _, params = fit(StateDict(inside | rest, []), tables, cases.shapes_of(module))
    rows = own["quantize.embedding.weight"]
    assert (params["quantize"]["embedding"] == rows).all()
    with pytest.raises(UserError, match="1 unused: another.weight"):
        fit(
            StateDict(own | {"another.weight": np.zeros(3)}, []),
            tables,
            cases.shapes_of(module),
        )


def test_old_names_of_attention_in_diffusers_are_known():
    module = cases.MODULES["kl_diffusers"]
    table = autoencoders.old_diffusers_tensors(module, module.shape)
    names = {tensor.name for tensor in table}
    for word in ("query", "key", "value", "proj_attn"):
        assert f"encoder.mid_block.attentions.0.{word}.weight" in names


def test_a_symmetric_padding_would_not_do():
    # The commonest mistake of ports: a shift by one pixel of the image is none of the
    # latents, so that padding at the wrong sides must change them.
    coder, params = cases.loaded("kl_compvis")
    x = cases.images(cases.CASES["kl_compvis"]["in"]["images"])
    encode = jax.jit(coder.encode)
    mirrored = encode(params, x[:, ::-1, ::-1]).mean[:, ::-1, ::-1]
    assert jnp.abs(mirrored - encode(params, x).mean).max() > 1e-2


@pytest.mark.parametrize("sides", [(8, 8), (4, 16)])
def test_the_shortcuts_of_dc_ae_are_inverse(sides):
    x = jax.random.normal(jax.random.key(0), (2, *sides, 3), jnp.float64)
    there = deep.space_to_channels(x)
    assert there.shape == (2, sides[0] // 2, sides[1] // 2, 12)
    assert (deep.channels_to_space(there) == x).all()
    # A block of pixels becomes its mean, which doubling repeats.
    blocks = x.reshape(2, sides[0] // 2, 2, sides[1] // 2, 2, 3).mean((2, 4))
    np.testing.assert_allclose(deep.halved(x, 3), blocks, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(deep.halved(deep.doubled(x, 3), 3), x, rtol=1e-12)


ONE = {"blocks_per_level": 1}
TINY = {
    "kl_autoencoder": {"channels": 8, "multipliers": (1, 2), "groups": 4, **ONE},
    "vq_autoencoder": {
        "channels": 8,
        "multipliers": (1, 2),
        "groups": 4,
        **ONE,
        "codebook_size": 16,
        "moving_average": True,
        "dead_share": 0.1,
    },
    "fsq_autoencoder": {"channels": 8, "multipliers": (1, 2), "groups": 4, **ONE},
    "taesd": {"channels": 8, "blocks": (1, 1), "decoder_blocks": (1, 1)},
    "dc_ae": {
        "channels": 8,
        "latent_channels": 4,
        "multipliers": (1, 2),
        "blocks": (1, 1),
        "decoder_blocks": (1, 1),
        "attention_from": 1,
        "channels_per_head": 4,
    },
    "representation_autoencoder": {
        "encoder": "tiny",
        "patch": 2,
        "width": 16,
        "depth": 1,
        "num_heads": 2,
    },
}


@pytest.fixture(autouse=True)
def tiny_encoder(monkeypatch):
    tiny = functools.partial(dinov2.vision_transformer, 48, 3, 3)
    monkeypatch.setitem(representation.ENCODERS, "tiny", tiny)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", cases.unless(lambda name: name in ("vq_autoencoder", "taesd"), AUTOENCODERS)
)
def test_every_autoencoder_is_a_network_that_gives_back_its_input_shape(name):
    module = AUTOENCODERS[name](shape=(8, 12, 1), **TINY[name])
    assert module.problems((8, 12, 1)) == []
    network = from_linen(module, (8, 12, 1))
    params = network.init(jax.random.key(0))
    coder = network.parts
    x = jax.random.normal(jax.random.key(1), (3, 8, 12, 1), jnp.float32)

    @jax.jit
    def all_parts(params, x):
        posterior = coder.encode(params, x)
        found = coder.bottleneck(params, jax.random.key(2), posterior, 96)
        codes = coder.codes(params, posterior.mean) if coder.num_codes else None
        out = network.apply(params, x, jnp.zeros(3))
        again = coder.decode(params, posterior.mean)
        return posterior, found, codes, out, again, coder.render(params, found.latents)

    posterior, found, codes, out, again, rendered = all_parts(params, x)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    assert posterior.mean.shape[1:3] == (8 // coder.factor, 12 // coder.factor)
    np.testing.assert_allclose(out, again, atol=1e-6)
    assert found.penalty.shape == (3,)
    assert rendered.shape == x.shape
    if coder.num_codes:
        assert codes.shape == posterior.mean.shape[:-1]
        assert 0 <= codes.min() <= codes.max() < coder.num_codes
        # The decoder sees a code alone, drawn in training or not.
        np.testing.assert_allclose(rendered, out, atol=1e-5)
    leaf = params
    for word in coder.last_layer:
        leaf = leaf[word]
    assert leaf.shape[-1] == 1


def test_latents_of_a_frozen_encoder_are_its_tokens():
    """Of images whose patches are the encoder's own, nothing is resized."""
    make = AUTOENCODERS["representation_autoencoder"]
    options = TINY["representation_autoencoder"] | {"patch": dinov2.PATCH}
    coder = make(shape=(28, 42, 3), **options).parts()
    network = from_linen(make(shape=(28, 42, 3), **options), (28, 42, 3))
    x = jax.random.uniform(jax.random.key(1), (2, 28, 42, 3), jnp.float32, -1, 1)
    params = network.init(jax.random.key(0))
    frozen, encoder = params["frozen"], representation.ENCODERS["tiny"]()
    scaled = (np.asarray((x + 1) / 2) - dinov2.MEAN) / dinov2.STD
    tokens = encoder.apply({"params": frozen}, scaled)["patches"]
    found = coder.encode(params, x)
    assert found.log_variance is None
    assert found.mean.shape == (2, 2, 3, 48)
    np.testing.assert_allclose(
        found.mean.reshape(2, 6, 48), tokens, atol=1e-5 * float(abs(tokens).max())
    )
    paths = jax.tree_util.tree_leaves_with_path(params)
    kept = {path[0].key for path, _ in paths if is_frozen(path)}
    assert kept == {"frozen"}
    assert sum(is_frozen(p) for p, _ in paths) == len(jax.tree.leaves(frozen))
    slopes = jax.grad(lambda p: network.apply(p, x, jnp.zeros(2)).sum())(params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(slopes["frozen"]))


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_sides_that_are_no_multiples_are_refused_with_the_factor(name):
    module = AUTOENCODERS[name](shape=(9, 12, 1), **TINY[name])
    (problem,) = module.problems((9, 12, 1))
    assert "divides the sides of an image by 2" in problem
    assert "it takes images" in module.problems((9,))[0]


def test_options_that_do_not_fit_are_named():
    make = AUTOENCODERS["kl_autoencoder"]
    (problem,) = make(channels=12, groups=8, multipliers=(2, 2)).problems((8, 8, 3))
    assert problem == "groups is 8; it must divide the 12 channels of a level"
    (problem,) = make(attention_levels=(4,)).problems((8, 8, 3))
    assert problem == "attention_levels has 4; choose from 0 to 3"
    (problem,) = AUTOENCODERS["fsq_autoencoder"](latent_channels=3).problems((8, 8, 3))
    assert "latent_channels is 3; it must be 4" in problem
    found = AUTOENCODERS["dc_ae"](blocks=(1,), latent_channels=7).problems((32, 32, 3))
    assert len(found) == 2


@pytest.mark.slow
def test_a_bfloat16_autoencoder_keeps_norms_and_its_end_in_float32():
    options = TINY["kl_autoencoder"] | {"dtype": "bfloat16"}
    module = AUTOENCODERS["kl_autoencoder"](shape=(8, 8, 1), **options)
    network = from_linen(module, (8, 8, 1))
    params = network.init(jax.random.key(0))
    full = AUTOENCODERS["kl_autoencoder"](shape=(8, 8, 1), **TINY["kl_autoencoder"])
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 1), jnp.float32)
    found = jax.jit(network.apply)(params, x, jnp.zeros(2))
    assert found.dtype == jnp.float32
    expected = jax.jit(from_linen(full, (8, 8, 1)).apply)(params, x, jnp.zeros(2))
    # bfloat16 has 8 bits; a dozen layers follow each other.
    assert jnp.abs(found - expected).max() < 0.1 * jnp.abs(expected).max()
    # float16 would overflow here, at 65,504; bfloat16 does not.
    large = jax.tree.map(lambda a: a * 30, params)
    assert jnp.isfinite(jax.jit(network.apply)(large, 1e4 * x, jnp.zeros(2))).all()
