"""A network that sees its input as waves sees a period per grey level of the data.

At noise below the width of a grey level the likelihood is decided by which level it is,
and waves that don't fit the levels don't tell.
"""

from pathlib import Path

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flax import linen as nn

from experiments.launch import load_config
from score_sde import data
from score_sde.networks.unet import UNetEncoder
from score_sde.run import build
from score_sde.run.model import denoiser
from score_sde.run.waves import waves_note

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
