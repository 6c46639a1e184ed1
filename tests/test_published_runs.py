"""The configs of published runs: their networks, and that they train."""

import copy
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import GOLDEN, unless

from configs import cifar10_few_steps, imagenet64_few_steps
from experiments import launch
from experiments.import_weights import default_config
from score_sde import networks
from score_sde.networks.network import FROZEN
from score_sde.run import build, model, sample, train
from score_sde.run.describe import print_dry_run
from score_sde.run.objectives import OBJECTIVES
from score_sde.run.sections import complete
from score_sde.samplers import SAMPLERS
from score_sde.training.optimizer import make_optimizer
from score_sde.training.step import init_state, make_train_step, whole_batch_gradient
from score_sde.weights.published import PUBLISHED

CONFIGS = Path(__file__).parents[1] / "configs"
RUNS = {
    "cifar10_ddpmpp_vp": "score_sde/vp/cifar10_ddpmpp_continuous",
    "cifar10_ddpmpp_subvp": "score_sde/subvp/cifar10_ddpmpp_continuous",
    "cifar10_ddpmpp_deep_vp": "score_sde/vp/cifar10_ddpmpp_deep_continuous",
    "cifar10_ddpmpp_deep_subvp": "score_sde/subvp/cifar10_ddpmpp_deep_continuous",
    "cifar10_ncsnpp_vp": "score_sde/vp/cifar10_ncsnpp_continuous",
    "cifar10_ncsnpp_subvp": "score_sde/subvp/cifar10_ncsnpp_continuous",
    "cifar10_ncsnpp_ve": "score_sde/ve/cifar10_ncsnpp_continuous",
    "cifar10_ncsnpp_deep_ve": "score_sde/ve/cifar10_ncsnpp_deep_continuous",
    "cifar10_scoreflow": "score_sde/vp/cifar10_ddpmpp_deep_continuous",
    "cifar10_edm": "edm/cifar10-32x32-uncond-ddpmpp",
    "cifar10_edm_cond": "edm/cifar10-32x32-cond-ddpmpp",
    "cifar10_edm_ve": "edm/cifar10-32x32-uncond-ncsnpp",
    "cifar10_edm_cond_ve": "edm/cifar10-32x32-cond-ncsnpp",
    "ffhq64_edm": "edm/ffhq-64x64-uncond-ddpmpp",
    "imagenet64_edm": "edm/imagenet-64x64-cond-adm",
    "imagenet64_adm": "guided-diffusion/64x64_diffusion",
    "imagenet64_iddpm": "improved-diffusion/imagenet64_uncond_100M_1500K",
    "imagenet64_edm2": "edm2/edm2-img64-s",
    "imagenet512_edm2": "edm2/edm2-img512-xs",
    "imagenet512_edm2:s": "edm2/edm2-img512-s",
    "imagenet256_dit": "dit/DiT-XL-2-256px",
}
CHAIN = "imagenet64_adm"
"""Trained on the chain whose levels the imported network knows as EDM's iDDPM."""
WITHOUT_WEIGHTS = (
    "cifar10_vdm",
    "cifar10_few_steps",
    "imagenet64_few_steps",
    "fashion_mnist:kl",
    "imagenet256_ldm",
    "imagenet256_ldm:rae",
    "imagenet_upsampler",
    "ffhq128_sr3",
    "fashion_mnist_cascade",
    "cifar10_vdm:details",
)
COUNTS = {
    name: known["trained"]
    for file in ("unets", "edm2_dit")
    for name, known in json.loads((GOLDEN / f"nets/{file}.json").read_text()).items()
}


def config_of(stem):
    return copy.deepcopy(launch.load_config(stem, CONFIGS))


def test_all_published_runs_are_here():
    stems = {path.stem for path in CONFIGS.glob("*.py")} - {"__init__"}
    small = {s for s in stems if s.split("_")[0] in ("digits", "patches", "points")}
    runs = {name.partition(":")[0] for name in (*RUNS, *WITHOUT_WEIGHTS)}
    assert stems - small == runs


@pytest.mark.parametrize("stem", RUNS)
def test_a_run_trains_the_published_network(stem):
    config, published = config_of(stem), PUBLISHED[RUNS[stem]]
    made = build.build(config)
    config["network"].pop("dtype", None)
    imported = default_config({"network": RUNS[stem]})
    here, there = (build.network_module(c) for c in (config, imported))
    assert here == there
    assert type(here) is networks.NETWORKS[published.network]
    assert made.dataset.shape == published.shape
    assert (made.dataset.num_levels or 0) == published.num_levels
    if stem != CHAIN:
        assert config["precondition"] == imported["precondition"]
        assert config.get("chain", {}) == imported["chain"]


# The others have their counts of these, by the test above and those of the networks.
QUICK = ("cifar10_ncsnpp_deep_ve", "cifar10_edm_cond", "imagenet64_iddpm")


@pytest.mark.parametrize("stem", unless(QUICK.__contains__, RUNS))
def test_a_run_has_the_published_number_of_parameters(stem):
    made = build.build(config_of(stem))
    params = jax.eval_shape(lambda: train.initial_params(made))["network"]
    count = sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key not in FROZEN
    )
    assert count == COUNTS[RUNS[stem]]
    assert count <= networks.count_parameters(params)


@pytest.mark.parametrize(
    "stem", unless(("cifar10_ddpmpp_vp",).__contains__, [*RUNS, *WITHOUT_WEIGHTS])
)
def test_a_dry_run_needs_no_data(stem, tmp_path, capsys):
    """Nothing but shapes is computed, and no split is opened."""
    config = config_of(stem)
    print_dry_run(config, build.build(config))
    out = capsys.readouterr().out
    assert "parameters: " in out
    assert "memory to train: " in out


STUDENTS = {
    "cifar10_few_steps": cifar10_few_steps,
    "imagenet64_few_steps": imagenet64_few_steps,
}


@pytest.mark.parametrize(
    ("stem", "variant"),
    [(stem, name) for stem, module in STUDENTS.items() for name in module.VARIANTS],
)
def test_every_student_is_configured(stem, variant, tmp_path):
    """With the run that it is made from, each variant is an experiment."""
    config = config_of(f"{stem}:{variant}")
    denoiser = {**config, "objective": {"name": "denoising"}, "companions": {}}
    denoiser |= {"precondition": {"name": "edm"}, "sampler": {"name": "heun"}}
    denoiser |= {"grid": {"name": "karras", "num_steps": 18}, "weight": {"name": "edm"}}
    (tmp_path / "config.json").write_text(json.dumps(complete(denoiser)))
    config["companions"] = {"teacher": {"run": str(tmp_path)}}
    made = build.build(config)
    assert type(made.objective) is OBJECTIVES[config["objective"]["name"]]


WHOLE = ("cifar10_ddpmpp_vp", "cifar10_ncsnpp_ve", "cifar10_edm_cond")
"""Trained as they are; of the others the width and depth are cut, since the machine
that tests is small."""
SMALL = {
    "song_unet": {"channels": 32, "blocks_per_level": 1},
    "unet": {"channels": 32, "blocks_per_level": 2},
    "adm": {"channels": 64, "blocks_per_level": 1},
    "edm2": {"channels": 32, "blocks_per_level": 1, "channels_per_head": 32},
    "dit": {"hidden_size": 64, "depth": 2, "num_heads": 4},
    "kl_autoencoder": {"channels": 32, "blocks_per_level": 1},
}
NEED_A_FILE = ("imagenet256_ldm:rae",)
"""Trained in tests/test_latents_training.py, with a file of an encoder."""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "stem", [s for s in (*RUNS, *WITHOUT_WEIGHTS) if s not in NEED_A_FILE]
)
def test_a_run_takes_two_steps_on_data_of_its_format(stem):
    config = config_of(stem)
    # What is kept of images of 256 x 256 for the gradient is gigabytes.
    batch_size = 1 if max(build.build(config).model.shape[:2]) > 64 else 2
    config["data"]["batch_size"] = batch_size
    if config.get("objective", {}).get("name") == "autoencoder":
        config["objective"]["perceptual"] = "none"  # it needs a file, or all the data
    if stem not in WHOLE:
        config["network"] |= SMALL[config["network"]["name"]]
    if stem == "imagenet_upsampler":
        config["network"]["channels"] = 32  # at 256 x 256 its activations are many
    made = build.build(config)
    random = np.random.RandomState(0)
    stored = made.dataset.stored
    levels, shape = stored.num_levels, (batch_size, *stored.shape)
    values = 0.5 * random.normal(size=shape).astype(np.float32)
    if levels is not None:
        values = random.randint(levels, size=shape).astype(np.uint8)
    batch = {"values": values}
    if made.dataset.num_classes:
        labels = random.randint(made.dataset.num_classes, size=batch_size)
        batch["label"] = labels.astype(np.int32)
    with jax.numpy_dtype_promotion("standard"):
        optimizer = make_optimizer(made.optimizer, num_steps=made.train.num_steps)
        step = make_train_step(
            whole_batch_gradient(train.make_loss(made)),
            optimizer,
            seed=0,
            ema_halflife_steps=made.train.ema_halflife_steps,
            ema_rampup_ratio=made.train.ema_rampup_ratio,
            project=partial(model.project_params, made.model),
            power_ema_stds=made.train.power_ema_stds,
        )
        num_averages = len(made.train.power_ema_stds)
        state = init_state(
            train.initial_params(made), optimizer, num_power_emas=num_averages
        )
        state = jax.tree.map(jnp.copy, state)  # each part may be given away
        step = jax.jit(step, donate_argnums=0)
        for _ in range(2):
            state, metrics = step(state, batch)
            assert np.isfinite(metrics["loss"])
            assert 0 < metrics["gradient_norm"] < np.inf


@pytest.mark.slow
def test_samples_of_a_config_have_the_variances_that_the_network_predicts():
    config = config_of("digits:hybrid")
    config["network"] |= {
        "channels": 32,
        "multipliers": (1,),
        "attention_resolutions": (),
    }
    config["sampler"]["variance"] = "learned"
    config["grid"]["num_steps"] = 3
    made = build.build(config)
    noise = iter(jr.split(jr.key(3), 1000))
    params = jax.tree.map(  # the last layers begin at zero
        lambda a: a + 0.1 * jr.normal(next(noise), a.shape, a.dtype),
        train.initial_params(made),
    )
    keys = sample.sample_keys(0, 0, 2)
    found = sample.draw_samples(made.model, made.drawing, params, keys, None)

    def v(x, sigma):
        c = made.model.precondition(jnp.broadcast_to(sigma, 2))
        raw = made.model.network.apply(
            params["network"], c.in_[:, None, None, None] * x, c.noise.astype(x.dtype)
        )
        return raw[..., 1:]

    by_hand = SAMPLERS["ddpm"](variance="learned", learned=v)
    expected, fixed = (
        sample.draw_samples(
            made.model, made.drawing._replace(sampler=s), params, keys, None
        ).levels
        for s in (by_hand, SAMPLERS["ddpm"]())
    )
    np.testing.assert_array_equal(found.levels, expected)
    assert (np.asarray(found.levels) != np.asarray(fixed)).mean() > 0.1
