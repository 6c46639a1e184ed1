import copy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.launch import load_config
from score_sde import conditions, data
from score_sde.latents import AUTOENCODERS
from score_sde.networks import NETWORKS, count_parameters
from score_sde.networks.flops import forward_flops
from score_sde.networks.network import from_linen
from score_sde.run import build, model, train
from score_sde.run.sections import (
    NAMED,
    SECTIONS,
    complete,
    rename,
    section_fields,
)
from score_sde.training.step import StepContext
from score_sde.types import UserError

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("[a-z]*.py"))
VARIANTS = {
    "digits": (
        *("label", "words", "vector", "image", "classifier", "likelihood", "vdm"),
        *("variational", "hybrid", "vp", "subvp", "ve", "autoencoder"),
    ),
    "fashion_mnist": ("vdm", "kl"),
    "patches": ("vdm",),
    "imagenet512_edm2": ("s",),
}
NAMES = [path.stem for path in CONFIGS] + [
    f"{name}:{variant}" for name, some in VARIANTS.items() for variant in some
]


def digits(variant=""):
    name = f"digits:{variant}" if variant else "digits"
    return copy.deepcopy(load_config(name, Path()))


def with_fields(**fields):
    """The digits config with section__field=value, or section__entry__field=value."""
    config = digits()
    for path, value in fields.items():
        *parents, last = path.split("__")
        holder = config
        for part in parents:
            holder = holder.setdefault(part, {})
        holder[last] = value
    return config


@pytest.mark.parametrize("name", NAMES)
def test_every_config_builds(name):
    config = load_config(name, Path())
    experiment = build.build(config)
    path = ROOT / f"configs/{name.partition(':')[0]}.py"
    assert path.read_text().startswith('"""')
    assert f"--config={path.stem}" in path.read_text()
    sigmas = np.asarray(experiment.drawing.grid())
    assert sigmas[-1] == 0
    # Completing a config only writes out its defaults.
    full = complete(config)
    assert complete(full) == full
    again = build.build(full)
    for field in ("train", "optimizer", "devices", "sampling", "likelihood", "data"):
        assert getattr(again, field) == getattr(experiment, field)
    assert again.drawing.sampler == experiment.drawing.sampler
    assert repr(again.model.sde) == repr(experiment.model.sde)


def test_an_evaluation_in_latents_costs_a_sixth():
    def flops(name, shape):
        options = dict(load_config(name, Path())["network"])
        network = from_linen(NETWORKS[options.pop("name")](**options), shape)
        return forward_flops(
            network, jax.eval_shape(network.init, jax.random.key(0)), shape
        )

    autoencoder = load_config("fashion_mnist:kl", Path())["network"]
    side = 28 // 2 ** (len(autoencoder["multipliers"]) - 1)
    latent = (side, side, autoencoder["latent_channels"])
    whole = flops("fashion_mnist", (28, 28, 1))
    assert whole == pytest.approx(6 * flops("fashion_mnist:latent", latent), rel=0.05)


def test_building_touches_no_device():
    """Or the number of CPU devices could not be set any more."""
    code = (
        "from pathlib import Path\n"
        "from experiments.launch import load_config\n"
        "from score_sde.run.build import build\n"
        "from score_sde.runtime.mesh import start_devices\n"
        f"for name in {NAMES}:\n"
        "    build(load_config(name, Path()))\n"
        "start_devices()"  # raises if it comes too late
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


AUTOENCODING = {
    "objective": {"name": "autoencoder"},
    "data": {
        "name": "absent",
        "shape": (32, 32, 3),
        "num_levels": 256,
        "num_classes": 10,
        "sigma_data": 0.5,
    },
}
REQUIRED = {
    ("grid", "*"): {"num_steps": 5},
    ("grid", "levels"): {"sigmas": (80.0, 0.8)},
    ("noise_levels", "ladder"): {"sigmas": (0.1, 1.0)},
    ("guidance", "scheduled"): {"sigmas": (0.1, 1.0), "weights": (3.0, 1.0)},
}
STUDENT = {
    "companions": {"teacher": {"run": "anywhere"}},
    "sampler": {"name": "consistency"},
}
STUDENTS = [
    name
    for name, made in SECTIONS["objective"].registry.items()
    if getattr(made, "trains_jumps", False) or getattr(made, "learns_divergence", False)
]
CLAUSES = {
    **{("objective", name): STUDENT for name in STUDENTS},
    ("noise_levels", "learned"): {"weight": {"name": "noise"}},
    ("network", "text_unet"): {"conditions": {"words": {}}},
    **{("network", name): AUTOENCODING for name in AUTOENCODERS},
    ("network", "representation_autoencoder"): AUTOENCODING
    | {"objective": {"name": "autoencoder", "encoder_weights": "encoder.pth"}},
    ("objective", "autoencoder"): {"network": {"name": "kl_autoencoder"}},
    ("network", "classifier"): {"objective": {"name": "classification"}},
    ("objective", "classification"): {"network": {"name": "classifier"}},
    ("objective", "hybrid"): {
        "data": {"name": "digits", "points": "centres"},
        "network": {
            "name": "adm",
            "channels": 32,
            "multipliers": (1, 2),
            "channels_per_head": 32,
            "attention_resolutions": (4,),
            "learn_sigma": True,
        },
    },
    ("guidance", "auto"): {"companions": {"worse": {"run": "anywhere"}}},
    ("guidance", "classifier"): {
        "companions": {"classifier": {"run": "anywhere"}},
        "conditions": {"label": {}},
    },
    **{
        ("guidance", name): {"conditions": {"label": {}}}
        for name in ("classifier_free", "scheduled", "composed", "projected")
    },
    **{
        ("guidance", name): {"conditions": {"label": {}}}
        for name in ("zero_star", "tangential", "frequency")
    },
    ("guidance", "plus_plus"): {
        "conditions": {"label": {}},
        "sampler": {"name": "euler"},
    },
}


@pytest.mark.parametrize(
    ("section", "name"),
    [(s, n) for s in NAMED if s != "data" for n in SECTIONS[s].registry],
)
def test_every_alternative_builds_from_its_defaults(section, name):
    if name == "controlled_unet":
        pytest.skip("it is made of another run's network: see test_companions")
    fields = section_fields(section, {"name": name})
    required = REQUIRED.get((section, "*"), {}) | REQUIRED.get((section, name), {})
    required = {k: v for k, v in required.items() if k in fields}
    if section == "features" and "weights" in fields:
        required = required | {"weights": "anywhere.pth"}
    config = digits() | CLAUSES.get((section, name), {})
    config[section] = rename(required, name, section) | required
    constructor = SECTIONS[section].registry[name]
    if getattr(constructor, "attention_resolutions", ()):
        config[section]["attention_resolutions"] = (8,)  # for 8x8 pixels
    build.build(config)


def test_another_alternative_keeps_what_it_needs_and_has_its_own_defaults():
    grid = {
        "name": "karras",
        "num_steps": 9,
        "sigma_min": 0.1,
        "sigma_max": 1.0,
        "rho": 3.0,
    }
    renamed = rename(grid, "polyexponential", "grid")
    assert renamed == {k: v for k, v in grid.items() if k != "rho"} | {
        "name": "polyexponential"
    }
    sde = rename({"name": "edm", "t_min": 0.002, "t_max": 80.0}, "vp", "sde")
    assert complete({"sde": sde})["sde"]["t_max"] == 1.0
    source = rename({"name": "digits", "batch_size": 7}, "files", "data")
    assert source == {"name": "files", "batch_size": 7}  # what all data share is kept


def test_the_chain_is_checked_once_for_all_that_use_it():
    config = digits() | {"grid": {"name": "ddpm", "num_steps": 5}}
    config["chain"] = {"beta_schedule": "cosin"}
    with pytest.raises(build.ConfigError, match=r"chain.beta_schedule is 'cosin'; did"):
        build.build(config)
    config = digits() | {"grid": {"name": "ddpm", "num_steps": 1001}}
    with pytest.raises(build.ConfigError, match="grid: num_steps is 1001; the chain"):
        build.build(config)
    config["chain"] = {"num_train_timesteps": 2000}
    assert len(build.build(config).drawing.grid()) == 1002


def test_a_stated_end_of_the_grid_must_suit_the_other_end_of_the_sde():
    experiment = build.build(with_fields(grid__sigma_min=100.0))
    with pytest.raises(build.ConfigError, match="needs 0 < sigma_min < sigma_max, got"):
        build.check_grid(experiment)


def test_a_fact_is_stated_once():
    """What one section determines can't be stated in another, and is handed there."""
    for section, field, where in (
        ("network", "num_classes", "conditions.label"),
        ("network", "vector_dims", "conditions.vector"),
        ("precondition", "sigma_data", "data.sigma_data"),
        ("weight", "sigma_data", "data.sigma_data"),
        ("grid", "beta_schedule", "chain"),
    ):
        config = with_fields(**{f"{section}__{field}": 1})
        message = f"{section}.{field}; leave it out: {where} determines it"
        with pytest.raises(build.ConfigError, match=message):
            build.build(config)
    config = digits("label") | {"data": {"name": "digits"}}
    experiment = build.build(config)
    told, untold = (
        jax.eval_shape(lambda made=made: train.initial_params(made))
        for made in (experiment, build.build(digits()))
    )
    # An embedding of ten classes, as wide as that of the noise level.
    assert count_parameters(told) - count_parameters(untold) == 10 * 128
    # Not stated: measured on training digits, whose standard deviation is 0.709.
    assert experiment.model.sigma_data == pytest.approx(0.709, abs=1e-3)
    sigmas = np.asarray(experiment.drawing.grid())
    np.testing.assert_allclose(sigmas[[0, -2]], [80.0, 0.002], rtol=1e-6)


BAD = [
    ({"sde__name": "vpsde"}, r"sde.name is 'vpsde'; choose from \['cosine_vp', 'edm'"),
    ({"sde__t_min": -1.0}, r"sde.t_min is -1.0; it must be > 0"),
    ({"sde__t_max": float("nan")}, r"sde.t_max is nan; it must be a number"),
    (
        {"sde__beta_min": 0.1},
        r"sde.beta_min: no such field; .*choose from \['t_max', 't_min'\]",
    ),
    (
        {"data__points": "variational", "weight__name": "edm"},
        r"objective.name is 'denoising': variational points need the weight of the bou",
    ),
    (
        {"data__points": "variational", "noise_levels__name": "log_normal"},
        r"variational points need noise levels that estimate the bound",
    ),
    (
        {"likelihood__dequantisation": "variational"},
        r"likelihood.dequantisation is 'variational'; it needs the flow",
    ),
    (
        {"objective__name": "hybrid"},
        r"objective.name is 'hybrid': data.points is 'uniform'; its decoder, which",
    ),
    (
        {"objective__name": "hybrid"},
        r"'hybrid': it needs a network that predicts variances: network.learn_sigma",
    ),
    (
        {"objective__name": "hybird"},
        r"objective.name is 'hybird'; did you mean 'hybrid",
    ),
    ({"network__channels": -8}, r"network.channels is -8; it must be > 0"),
    ({"network__channels": 8.5}, r"network.channels is 8.5; it must be int"),
    (
        {"network__multipliers": (0.5, "a")},
        r"network.multipliers is .*must be a tuple of int",
    ),
    (
        {"network__multipliers": ()},
        r"network.multipliers is \(\); it must be one or more",
    ),
    ({"network__multipliers": (1, 1, 1, 1, 1)}, r"must be multiples of 16"),
    (
        {"network__attention_resolutions": (5,)},
        r"attention_resolutions has 5; choose from \[8",
    ),
    ({"network__dropout": 1.0}, r"network.dropout is 1.0; it must be >= 0 and < 1"),
    (
        {"network__embedding": "fourrier"},
        r"network.embedding is 'fourrier'; did you mean 'fourier'",
    ),
    (
        {"network__dropuot": 0.1},
        r"network.dropuot: no such field; did you mean 'dropout'",
    ),
    ({"network__name": "mlp"}, r"network.\w+: no such field"),
    ({"data__name": "digit"}, r"data.name is 'digit'; did you mean 'digits'"),
    ({"data__name": "rings"}, r"it takes .*images .*not data of shape \(2,\)"),
    ({"data__batch_size": -5}, r"data.batch_size is -5; it must be >= 1"),
    ({"data__batch_size": "64"}, r"data.batch_size is '64'; it must be int"),
    ({"data__sigma_data": 0.0}, r"data.sigma_data is 0.0; it must be > 0"),
    ({"data__shape": (8, 8, 1)}, r"data.shape: no such field"),
    (
        {"noise_levels__name": "lognormal"},
        r"noise_levels.name is 'lognormal'; did you mean",
    ),
    ({"weight__name": "edn"}, r"weight.name is 'edn'; did you mean 'edm'"),
    ({"precondition__name": ""}, r"precondition.name is ''; choose from"),
    (
        {"optimizer__learning_rate": float("nan")},
        r"optimizer.learning_rate is nan; it must be a number",
    ),
    ({"optimizer__schedule": "cos"}, r"optimizer.schedule is 'cos'; did you mean"),
    (
        {"optimizer__warmup_steps": 10**9},
        r"warmup_steps is 1000000000; it must be below",
    ),
    ({"train__num_steps": 0}, r"train.num_steps is 0; it must be >= 1"),
    ({"train__log_every": True}, r"train.log_every is True; it must be int"),
    ({"sampler__name": "eular"}, r"sampler.name is 'eular'; did you mean 'euler'"),
    ({"sampler__s_churn": -1.0}, r"sampler.s_churn is -1.0; it must be >= 0"),
    ({"grid__sigma_min": 0.0}, r"grid.sigma_min is 0.0; it must be > 0"),
    (
        {"grid__sigma_min": 100.0, "grid__sigma_max": 80.0},
        r"grid: a grid needs 0 < sigma_min < sigma_max",
    ),
    ({"grid__rho": float("nan")}, r"grid.rho is nan; it must be a number"),
    ({"likelihood__rtol": 0.0}, r"likelihood.rtol is 0.0; it must be > 0 and < 1"),
    ({"likelihood__divergence": "trace"}, r"likelihood.divergence is 'trace'; choose"),
    ({"data__name": "files"}, r"data: path is missing: --config.data.path=PATH"),
    (
        {"data__name": "files", "data__path": ""},
        r"data.path is ''; it must be the path of a file or a folder",
    ),
    (
        {"guidance__name": "cfg"},
        r"guidance.name is 'cfg'; choose from \['auto', 'classifier', 'classif",
    ),
    (
        {"guidance__name": "classifier_free"},
        r"guidance needs a network that is told something: see section conditions",
    ),
    (
        {"guidance__name": "classifier_free", "guidance__weight": float("nan")},
        r"guidance.weight is nan; it must be a number",
    ),
    (
        {"guidance__name": "classifier_free", "guidance__sigma_low": 3.0}
        | {"guidance__sigma_high": 1.0},
        r"guidance: .*sigma_low.*sigma_high",
    ),
    (
        {"conditions__label": {}, "guidance__name": "classifier_free"}
        | {"guidance__negative_label": 10},
        r"guidance.negative_label: 10 is no class; choose from 0 to 9, or -1 for none",
    ),
    (
        {"conditions__label": {"samples": (3, 11)}},
        r"conditions.label: samples: 11 is no class; choose from 0 to 9",
    ),
    ({"conditions__class": {}}, r"conditions.class: unknown; choose from"),
    ({"conditions__label": {"smaples": ()}}, r"smaples: no such field; did you mean"),
    ({"train__condition_dropout": 0.1}, r"condition_dropout is 0.1; the network is to"),
    ({"train__condition_dropout": 1.5}, r"condition_dropout is 1.5; it must be from 0"),
    (
        {"threshold__name": "dynamic", "threshold__percentile": 0.0},
        r"threshold.percentile is 0.0; it must be > 0 and <= 100",
    ),
    ({"sampling__num_samples": 0}, r"sampling.num_samples is 0; it must be >= 1"),
    (
        {"guidance__name": "auto"},
        r"it needs another run: --config.companions.worse.run",
    ),
    ({"companions__worse": {"run": 3}}, r"companions.worse.run is 3; it must be str"),
    ({"parts": "my_parts"}, r"parts is 'my_parts'; it must be a tuple of modules"),
    ({"parts": ("no_such_module",)}, r"parts: no_such_module can't be imported"),
    ({"extra": 3}, r"extra is 3; it must be a dict of notes"),
]


@pytest.mark.parametrize(
    ("fields", "message"),
    BAD,
    ids=[f"{i}-{next(iter(f))}" for i, (f, _) in enumerate(BAD)],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(build.ConfigError, match=message):
        build.build(with_fields(**fields))


def test_all_mistakes_are_reported_together_before_any_device_work(monkeypatch):
    config = with_fields(
        sde__name="vpsde", network__channels=-8, data__batch_size=-5, grid__rho=0.0
    )
    config["seed"] = -1
    config["sampeler"] = {}
    del config["train"]

    def touched(*_, **__):
        pytest.fail("a device was touched")

    monkeypatch.setattr(jax, "devices", touched)
    monkeypatch.setattr(jax, "device_put", touched)
    with pytest.raises(build.ConfigError) as error:
        build.build(config)
    problems = "\n".join(error.value.problems)
    for start in (
        "seed: must be an integer",
        "sampeler: no such section; did you mean 'sampler'?",
        "sde.name is 'vpsde'",
        "network.channels is -8",
        "data.batch_size is -5",
        "grid.rho is 0.0",
        "train: this section is missing",
    ):
        assert start in problems
    assert len(error.value.problems) == 7
    assert "7 problems in the config" in str(error.value)


def test_data_of_the_config_is_the_data_set():
    assert build.build(digits()).dataset.name == "digits"
    assert set(data.DATASETS) >= {"digits", "patches", "rings"}


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            {"name": "dit", "patch_size": 3},
            r"patch_size is 3; it must divide",
        ),
        (
            {"name": "dit", "hidden_size": 1150},
            r"hidden_size is 1150; it must be",
        ),
        ({"name": "edm2"}, r"resolutions has 16; choose from \[8, 4, 2, 1\]"),
        (
            {"name": "edm2", "channels": 50, "attention_resolutions": ()},
            r"channels_per_head is 64; it must divide the 200 channels of a level",
        ),
        (
            {"name": "adm", "channels": 50, "attention_resolutions": ()},
            r"channels_per_head is 64; it must divide the 200 channels of a level",
        ),
        (
            {
                "name": "adm",
                "channels_per_head": 0,
                "num_heads": 5,
                "attention_resolutions": (),
            },
            r"num_heads is 5; it must divide the 768 channels of a level",
        ),
        (
            {"name": "edm2", "channels_per_head": 0, "attention_resolutions": ()},
            r"channels_per_head is 0; it must be > 0",
        ),
        (
            {"name": "song_unet", "resample_filter": (1, 2, 1)},
            r"resample_filter is \(1, 2, 1\); it must be an even number",
        ),
        (
            {"name": "song_unet", "progressive_input": "skip"},
            r"progressive_input is 'skip'; choose from",
        ),
        ({"name": "dit", "dtype": "float8"}, r"dtype is 'float8'; did you mean"),
    ],
)
def test_networks_that_do_not_fit_are_refused(network, message):
    with pytest.raises(build.ConfigError, match=message):
        build.build(digits() | {"network": network})


def test_absent_data_have_a_format_and_no_examples():
    config = digits() | {"conditions": {"label": {}}, "network": {"name": "dit"}}
    config["data"] = {"name": "absent", "shape": (16, 16, 4), "num_levels": 0}
    config["data"] |= {"num_classes": 7, "sigma_data": 0.5}
    dataset = build.build(config).dataset
    assert (dataset.shape, dataset.num_levels) == ((16, 16, 4), None)
    assert dataset.num_classes == 7
    with pytest.raises(UserError, match="data.name is 'absent'"):
        dataset.split("train")
    config["data"]["sigma_data"] = None
    with pytest.raises(build.ConfigError, match="sigma_data is None, and it can't be"):
        build.build(config)


def test_edm2_brings_its_own_log_variance():
    config = digits()
    network = {"name": "edm2", "channels": 8, "multipliers": (1, 2)}
    network |= {"channels_per_head": 8, "attention_resolutions": ()}
    config |= {"network": network}
    config["objective"] = {"name": "denoising", "learn_log_variance": True}
    made = build.build(config)
    params = jax.eval_shape(lambda: train.initial_params(made))
    assert params.keys() == {"network"}
    assert "logvar" in params["network"]

    log_sigma = jax.ShapeDtypeStruct((3,), np.float32)
    assert jax.eval_shape(
        lambda p, s: made.objective.log_variance(made.model, p)(s), params, log_sigma
    ).shape == (3,)
    projected = jax.eval_shape(lambda p: model.project_params(made.model, p), params)
    assert jax.tree.structure(projected) == jax.tree.structure(params)


def test_augmented_data_need_a_network_that_is_told():
    config = digits() | {"conditions": {"augment": {"probability": 0.12}}}
    with pytest.raises(build.ConfigError, match="it can't be told 'augment', but"):
        build.build(config)
    config["network"] = {"name": "song_unet", "channels": 32}
    config["network"] |= {"multipliers": (1, 2), "attention_resolutions": ()}
    made = build.build(config)
    params = jax.eval_shape(lambda: train.initial_params(made))
    batch = {
        "values": jax.ShapeDtypeStruct((4, 8, 8, 1), np.uint8),
        "label": jax.ShapeDtypeStruct((4,), np.int32),
    }
    loss = jax.eval_shape(
        lambda p, b: train.make_loss(made)(
            jax.random.key(0), p, b, StepContext(jax.numpy.zeros((), int), p)
        ),
        params,
        batch,
    )
    assert loss.shape == (4,)
    told = conditions.of_samples(made.model.conditions, made.dataset, np.arange(3))
    assert told["augment"].shape == (3, 9)
    assert not told["augment"].any()
