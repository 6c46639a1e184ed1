"""A network that sees its input as waves sees a period per grey level of the data.

At noise below the width of a grey level the likelihood is decided by which level it is,
and waves that don't fit the levels don't tell. Above that noise waves tell nothing.
"""

import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flax import linen as nn

from experiments.launch import load_config
from score_sde import data
from score_sde.networks import ControlledUNet, UNet
from score_sde.networks.unet import UNetEncoder
from score_sde.precondition import PRECONDITIONERS
from score_sde.run import build
from score_sde.run.model import denoiser
from score_sde.run.waves import network_told_noise, waves_note
from score_sde.sde import SDES

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = [
    *("digits", "digits:vp", "digits:subvp", "digits:ve", "digits:vdm"),
    *("digits:wavelet_coarse", "digits:wavelet_details"),
    *("fashion_mnist:vdm", "patches:vdm", "patches:coarse", "patches:details"),
    *("cifar10_vdm", "cifar10_vdm:coarse", "cifar10_vdm:details"),
    *(f"fashion_mnist_cascade:{part}" for part in ("details2", "details")),
]
OF_PIXELS = ["fashion_mnist_cascade:coarse"]
"""Of means whose own levels are hidden by noise: a period per grey level of a pixel."""


def seen(model, image):
    """What the network sees of the points of an image at the lowest noise."""
    x0 = data.centres(image[None], num_levels=model.num_levels)
    x, cond = x0, None
    if model.part is not None:
        x = model.part.take(x0)
        cond = {"image": model.part.told(x0)} if model.part.told else None
    inputs = []

    def only_look(call, args, kwargs, context):
        is_unet = isinstance(context.module, UNetEncoder)
        if not is_unet or context.method_name != "__call__":
            return call(*args, **kwargs)
        inputs.append(args[0])
        return jnp.zeros_like(args[0])

    sigma = jnp.asarray(model.sde.sigma(model.sde.t_min))
    with nn.intercept_methods(only_look):
        params = {"network": model.network.init(jr.key(0))}
        denoiser(model, params)(x, sigma, cond)
    # Behind the channels of the data are those of the picture that is told.
    channels = model.row_shape[-1]
    return np.asarray(inputs[-1])[..., :channels]


@pytest.mark.parametrize("name", NAMES + OF_PIXELS)
@pytest.mark.parametrize("factor", [1.0, 0.98])
def test_a_run_says_when_no_wave_fits(name, factor):
    config = load_config(name, CONFIGS)
    waves = [factor * f for f in config["network"]["input_frequencies"]]
    note = waves_note(build.build(config), waves)
    if factor == 1 or "digits" in name:
        # Over 17 levels two per cent are a third of a period.
        assert note is None
    else:
        assert "has a period per grey level, " in note


def test_no_waves_and_no_levels_are_no_fault():
    assert waves_note(build.build(load_config("digits", CONFIGS)), ()) is None
    points = build.build(load_config("points", CONFIGS))
    assert waves_note(points, (1.0,)) is None


@pytest.mark.parametrize("name", NAMES + OF_PIXELS)
def test_there_is_a_period_for_each_grey_level(name):
    config = load_config(name, CONFIGS)
    model = build.build(config).model
    levels = model.num_levels
    image = np.random.default_rng(0).integers(0, levels - 1, model.row_shape)
    brighter = image.copy()
    # One pixel decides how far apart levels of means are; all of them, those of pixels.
    brighter[... if name in OF_PIXELS else (0, 0)] += 1
    apart = np.abs(seen(model, brighter) - seen(model, image)).max()
    num_seen = levels
    if model.part is not None and name not in OF_PIXELS:
        whole = np.zeros_like(image)
        ends = [seen(model, whole + level) for level in (0, levels - 1)]
        num_seen = np.abs(ends[1] - ends[0]).max() / apart
    periods = max(config["network"]["input_frequencies"]) * apart / 2
    # From the first level to the last, waves move by less than a tenth of a period.
    assert abs(periods - 1) * num_seen < 0.1


FREQUENCIES = (3.0, 0.5)


def waves_of(x, input_noise):
    """The waves of x, [batch, channels], that the first convolution is given.

    The gate is open.
    """
    network = UNet(channels=8, multipliers=(1,), input_frequencies=FREQUENCIES)
    image = jnp.asarray(x, jnp.float32)[:, None, None]
    noise = jnp.zeros(len(x), jnp.float32)
    cond = {"input_noise": jnp.full(len(x), input_noise)}
    params = network.init(jr.key(0), image, noise, cond)["params"]
    gate = {"kernel": params["gate"]["kernel"], "bias": jnp.ones(8, jnp.float32)}
    inputs = []

    def look(call, args, kwargs, context):
        if isinstance(context.module, nn.Conv):
            inputs.append(args[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(look):
        network.apply({"params": {**params, "gate": gate}}, image, noise, cond)
    return np.asarray(inputs[0])[:, 0, 0, x.shape[1] :]


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.2, 1.0])
def test_waves_are_shrunk_as_their_means_over_the_noise(spread):
    x = np.linspace(-1, 1, 14).reshape(7, 2)
    nodes, shares = np.polynomial.hermite_e.hermegauss(100)
    angles = [math.pi * f * (x[..., None] + spread * nodes) for f in FREQUENCIES]
    means = [
        wave(a) @ shares / shares.sum() for wave in (np.sin, np.cos) for a in angles
    ]
    np.testing.assert_allclose(waves_of(x, spread), np.hstack(means), atol=1e-6)


class SaysTheNoise(nn.Module):
    """Gives the noise that it is told of each example."""

    reads = frozenset({"input_noise"})

    @nn.compact
    def __call__(self, x, noise, cond, deterministic=True):
        return jnp.broadcast_to(cond["input_noise"][:, None], x.shape)


@pytest.mark.parametrize(
    "sde", [s for s in SDES if SDES[s].__module__ == "score_sde.sde"]
)
@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_a_network_is_told_the_noise_in_its_input(sde, name):
    sigma = jnp.geomspace(0.03, 30.0, 20)
    c = PRECONDITIONERS[name](sigma)
    for share in (1.0, 0.5):
        make = partial(network_told_noise, SaysTheNoise(), share=share)
        network = make(PRECONDITIONERS[name], SDES[sde](), (3,), None)
        told = network.apply({}, jnp.zeros((20, 3)), c.noise)[:, 0]
        # A ladder has levels two per cent apart.
        bound = 0.1 if name in ("ve_ladder", "iddpm") else 1e-3
        np.testing.assert_allclose(told, share * c.in_ * sigma, rtol=bound)


SMALL = UNet(channels=8, multipliers=(1,), input_frequencies=FREQUENCIES)


@pytest.mark.parametrize("module", [SMALL, ControlledUNet(trunk=SMALL)])
def test_a_network_within_a_network_is_told_the_noise_too(module):
    told = []

    def listen(call, args, kwargs, context):
        if context.method_name == "encode":
            told.append(args[2])
        return call(*args, **kwargs)

    x, noise = np.zeros((1, 4, 4, 1), np.float32), np.zeros(1, np.float32)
    cond = {"image": x}
    precondition, sde = PRECONDITIONERS["edm"], SDES["edm"]()
    network = network_told_noise(module, precondition, sde, x.shape[1:], cond)
    params = jax.eval_shape(network.init, jr.key(0))
    with nn.intercept_methods(listen):
        jax.eval_shape(network.apply, params, x, noise, cond)
    assert told
    assert all("input_noise" in cond for cond in told)
