"""The reference autoencoders of golden/latents, as networks here."""

import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import seeded_weights
from cases import unless as unless

from score_sde.latents import KLAutoencoder, VQAutoencoder
from score_sde.weights import StateDict, fit
from score_sde.weights.published import autoencoders

FOLDER = Path(__file__).parent / "golden/latents"
CASES = {case["id"]: case for case in json.loads((FOLDER / "cases.json").read_text())}
ARRAYS = np.load(FOLDER / "autoencoders.npz")

MODULES = {
    "kl_compvis": KLAutoencoder(
        (16, 16, 3), 3, channels=32, multipliers=(1, 2), blocks_per_level=1
    ),
    "vq_compvis": VQAutoencoder(
        (16, 16, 3),
        4,
        channels=32,
        multipliers=(1, 2),
        blocks_per_level=1,
        attention_levels=(1,),
        codebook_size=32,
        legacy_loss=True,
    ),
    "kl_diffusers": KLAutoencoder(
        (16, 24, 3), 4, channels=8, multipliers=(1, 2, 2), blocks_per_level=1, groups=4
    ),
    "vq_diffusers": VQAutoencoder(
        (16, 16, 3),
        3,
        channels=8,
        multipliers=(1, 2),
        groups=4,
        codebook_size=24,
        legacy_loss=True,
    ),
}
TABLES = {
    "compvis": autoencoders.compvis_tensors,
    "diffusers": autoencoders.diffusers_tensors,
}


def published():
    """Facts of the published autoencoders: config, number of parameters, tensors."""
    return json.loads(gzip.open(FOLDER / "published.json.gz").read())


def value(text):
    """The array that a text of a case refers to."""
    return ARRAYS[text.removeprefix("@")]


def images(text):
    """Images of a case from -1 to 1, in float64."""
    return jnp.asarray(value(text), jnp.float64) / 127.5 - 1


def names(case):
    """(name, shape) of each tensor of a case."""
    found = json.loads((FOLDER / f"names_{case}.json").read_text())
    return [(name, tuple(shape)) for name, shape, *_ in found]


def seeded(case, seed=0, prefix=""):
    """The weights of a case by name."""
    return {
        name: seeded_weights.tensor(prefix + name, shape, seed)
        for name, shape in names(case)
    }


def shapes_of(module):
    """The shapes of the parameters of an autoencoder."""
    x = jax.ShapeDtypeStruct((1, *module.shape), jnp.float32)
    return jax.eval_shape(lambda x: module.init(jax.random.key(0), x), x)["params"]


def doubled(params):
    """The parameters in float64."""
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), params)


def loaded(case):
    """(the functions of a reference autoencoder, its parameters in float64)."""
    module, program = MODULES[case], case.split("_")[1]
    table = {program: TABLES[program](module, module.shape)}
    _, params = fit(StateDict(seeded(case), []), table, shapes_of(module))
    return module.parts(), doubled(params)


def assert_near(result, expected, tolerance=1e-9):
    """Assert that the largest error is a share of the largest value at most."""
    result, expected = np.asarray(result), np.asarray(expected)
    assert result.shape == expected.shape
    error = np.abs(result - expected).max()
    assert error <= tolerance * np.abs(expected).max(), error
