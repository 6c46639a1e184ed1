import copy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.launch import load_config
from score_sde import data, losses, precondition
from score_sde.run import build, objective
from score_sde.run import model as experiment
from score_sde.samplers import SAMPLERS
from score_sde.types import UserError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("[a-z]*.py"))


def digits():
    return copy.deepcopy(
        load_config(str(Path(__file__).parents[1] / "configs/digits.py"), Path())
    )


def with_fields(**fields):
    """The digits config with section__field=value."""
    config = digits()
    for path, value in fields.items():
        section, field = path.split("__")
        config.setdefault(section, {})[field] = value
    return config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_builds(path):
    config = load_config(str(path), Path())
    experiment = build.build(config)
    assert path.read_text().startswith('"""')
    assert f"configs/{path.name}" in path.read_text()
    sigmas = np.asarray(experiment.grid())
    assert sigmas[-1] == 0
    # Completing a config only writes out its defaults.
    full = build.complete(config)
    assert build.complete(full) == full
    # Functions have no other equality than their text, options included.
    functions = dict.fromkeys(
        ("network", "dataset", "grid", "precondition", "conditions")
    )
    again = build.build(full)._replace(**functions)
    assert repr(again) == repr(experiment._replace(**functions))


def test_building_touches_no_device():
    """Or the number of CPU devices could not be set any more."""
    code = (
        "from pathlib import Path\n"
        "from experiments.launch import load_config\n"
        "from score_sde.run.build import build\n"
        "from score_sde.runtime.mesh import start_devices\n"
        f"for path in {[str(p) for p in CONFIGS]}:\n"
        "    build(load_config(path, Path()))\n"
        "start_devices()"  # raises if it comes too late
    )
    subprocess.run([sys.executable, "-c", code], cwd=CONFIGS[0].parents[1], check=True)


def test_every_piece_of_the_library_can_be_named():
    assert set(SAMPLERS) == set(build.NAMED["sampler"])
    assert set(losses.WEIGHTS) == set(build.NAMED["weight"])
    assert set(precondition.PRECONDITIONERS) == set(build.NAMED["precondition"])
    assert len(build.SDES) == 6


@pytest.mark.parametrize("section", build.NAMED)
def test_every_alternative_builds_from_its_defaults(section, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    required = {
        "grid": {"num_steps": 5, "sigma_min": 0.1, "sigma_max": 1.0},
        "noise_levels": {"sigmas": (0.1, 1.0)},
        "network": {"num_words": 18},
    }
    for name in build.NAMED[section]:
        if section == "network" and name == "mlp":
            continue  # for points
        config = digits()
        config[section] = build.rename(required.get(section, {}), name, section)
        if getattr(build.NAMED[section][name], "attention_resolutions", ()):
            config[section]["attention_resolutions"] = (8,)  # for 8x8 pixels
        if name == "learned":
            config["weight"] = {"name": "noise"}
        if section == "guidance":
            config["network"]["num_classes"] = 10
        if name == "text_unet":
            config[section]["num_classes"] = 10
        if name == "auto":
            config[section]["run"] = str(tmp_path)
        if name == "scheduled":
            config[section] |= {"sigmas": (0.1, 1.0), "weights": (3.0, 1.0)}
        if name == "controlled_unet":
            config["condition"] = {"image": "small"}
        build.build(config)


def test_another_alternative_keeps_what_it_needs_and_has_its_own_defaults():
    grid = {
        "name": "karras",
        "num_steps": 9,
        "sigma_min": 0.1,
        "sigma_max": 1.0,
        "rho": 3.0,
    }
    renamed = build.rename(grid, "polyexponential", "grid")
    assert renamed == {k: v for k, v in grid.items() if k != "rho"} | {
        "name": "polyexponential"
    }
    sde = build.rename({"name": "edm", "t_min": 0.002, "t_max": 80.0}, "vp", "sde")
    assert build.complete({"sde": sde})["sde"]["t_max"] == 1.0


def test_the_chain_of_a_grid_is_checked():
    config = digits()
    config["grid"] = {"name": "ddpm", "num_steps": 5, "beta_schedule": "cosin"}
    with pytest.raises(build.ConfigError, match=r"grid.beta_schedule is 'cosin'; it"):
        build.build(config)
    config["grid"] = {"name": "ddpm", "num_steps": 1001}
    with pytest.raises(build.ConfigError, match="grid: num_steps is 1001; the chain"):
        build.build(config)


BAD = [
    ({"sde__name": "vpsde"}, r"sde.name is 'vpsde'; choose from \['cosine_vp', 'edm'"),
    ({"sde__t_min": -1.0}, r"sde: EDM needs 0 < t_min < t_max, got EDM\(t_min=-1.0"),
    ({"sde__t_max": float("nan")}, r"sde: EDM needs 0 < t_min < t_max"),
    (
        {"sde__beta_min": 0.1},
        r"sde.beta_min: no such field; .*choose from \['t_max', 't_min'\]",
    ),
    (
        {"data__points": "variational", "weight__name": "edm"},
        r"weight.name is 'edm'; data.points 'variational' needs the bound's, 'noise'",
    ),
    (
        {"data__points": "variational", "noise_levels__name": "log_normal"},
        r"noise_levels.name is 'log_normal'; data.points 'variational' needs one of",
    ),
    (
        {"likelihood__dequantisation": "variational"},
        r"likelihood.dequantisation is 'variational'; it needs the flow",
    ),
    (
        {"loss__bound_weight": 1e-3},
        r"data.points is 'uniform'; loss.bound_weight, whose decoder gives a level its",
    ),
    (
        {"loss__bound_weight": 1e-3},
        r"precondition.name is 'edm'; loss.bound_weight needs a network of a discrete",
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
        r"network.embedding is 'fourrier'; it must be one of",
    ),
    (
        {"network__num_classes": 7},
        r"num_classes is 7; digits needs 0 \(unconditional\) or 10",
    ),
    (
        {"network__dropuot": 0.1},
        r"network.dropuot: no such field; did you mean 'dropout'",
    ),
    ({"network__vector_dims": 3}, r"vector_dims is 3; the 0 of condition"),
    ({"network__name": "mlp"}, r"network.\w+: no such field"),
    ({"data__name": "digit"}, r"data.name is 'digit'; did you mean 'digits'"),
    ({"data__name": "rings"}, r"data of shape \(2,\) need 'mlp'"),
    ({"data__batch_size": -5}, r"data: Data needs 1 <= batch_size"),
    ({"data__batch_size": "64"}, r"data.batch_size is '64'; it must be int"),
    ({"data__sigma_data": 0.0}, r"data: Data needs 0 < sigma_data"),
    (
        {"noise_levels__name": "lognormal"},
        r"noise_levels.name is 'lognormal'; did you mean",
    ),
    ({"weight__name": "edn"}, r"weight.name is 'edn'; did you mean 'edm'"),
    ({"precondition__name": ""}, r"precondition.name is ''; choose from"),
    (
        {"optimizer__learning_rate": float("nan")},
        r"optimizer: Optimizer needs 0 < learning_rate",
    ),
    ({"optimizer__schedule": "cos"}, r"optimizer: Optimizer needs schedule in"),
    (
        {"optimizer__warmup_steps": 10**9},
        r"warmup_steps is 1000000000; it must be below",
    ),
    ({"train__num_steps": 0}, r"train: Training needs 1 <= num_steps"),
    ({"train__log_every": True}, r"train.log_every is True; it must be int"),
    ({"sampler__name": "eular"}, r"sampler.name is 'eular'; did you mean 'euler'"),
    ({"sampler__s_churn": -1.0}, r"sampler: Heun needs 0 <= s_churn"),
    ({"grid__sigma_min": 0.0}, r"grid.sigma_min is 0.0; it must be > 0"),
    ({"grid__sigma_min": 100.0}, r"grid: sigma_min 100.0 must be below sigma_max"),
    ({"grid__rho": float("nan")}, r"grid.rho is nan; it must be > 0"),
    ({"likelihood__rtol": 0.0}, r"likelihood: Scoring needs 0 < rtol < 1"),
    ({"likelihood__divergence": "trace"}, r"likelihood: Scoring needs divergence in"),
    (
        {"data__name": "files"},
        r"data: Data needs a path if its name is 'files'",
    ),
    (
        {"guidance__name": "cfg"},
        r"guidance.name is 'cfg'; choose from \['auto', 'classifier', 'classif",
    ),
    (
        {"guidance__name": "classifier_free"},
        r"guidance.name is 'classifier_free'; the network has no classes: set "
        r"network.num_classes to 10",
    ),
    (
        {"guidance__name": "classifier_free", "guidance__weight": float("nan")},
        r"guidance.weight is nan; it must be finite",
    ),
    (
        {"guidance__name": "classifier_free", "guidance__sigma_low": 3.0}
        | {"guidance__sigma_high": 1.0},
        r"guidance: sigma_low 3.0 must be below sigma_high 1.0",
    ),
    (
        {"network__num_classes": 10, "guidance__name": "classifier_free"}
        | {"guidance__negative_label": 10},
        r"guidance.negative_label is 10; choose from 0 to 9, or -1 for none",
    ),
    (
        {"network__num_classes": 10, "sampling__labels": (3, 11)},
        r"sampling.labels has 11; choose from 0 to 9",
    ),
    (
        {"sampling__labels": (3,)},
        r"sampling.labels is \(3,\); the network has no classes",
    ),
    ({"loss__condition_dropout": 0.1}, r"condition_dropout is 0.1; the network has no"),
    ({"loss__condition_dropout": 1.5}, r"loss: Loss needs 0 <= condition_dropout <= 1"),
    (
        {"threshold__name": "dynamic", "threshold__percentile": 0.0},
        r"threshold.percentile is 0.0; it must be > 0 and <= 100",
    ),
    (
        {"sampling__caption": "a seven"},
        r"sampling.caption is 'a seven'; it is for a network that reads",
    ),
    ({"sampling__num_samples": 0}, r"sampling: Sampling needs 1 <= num_samples"),
]


@pytest.mark.parametrize(
    ("fields", "message"), BAD, ids=[next(iter(f)) for f, _ in BAD]
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
        "data: Data needs 1 <= batch_size",
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
            r"progressive_input is 'skip'; it must be one of",
        ),
        ({"name": "cross_unet", "token_dims": 8}, r"digits comes without tokens"),
        ({"name": "dit", "dtype": "float8"}, r"dtype is 'float8'; it must be one of"),
    ],
)
def test_networks_that_do_not_fit_are_refused(network, message):
    with pytest.raises(build.ConfigError, match=message):
        build.build(digits() | {"network": network})


def test_absent_data_have_a_format_and_no_examples():
    config = digits()
    config["data"] |= {"name": "absent", "shape": (16, 16, 4), "num_levels": 0}
    config["network"] = {"name": "dit", "num_classes": 7}
    config["likelihood"] = {}
    dataset = build.build(config).dataset
    assert (dataset.shape, dataset.num_levels) == ((16, 16, 4), None)
    assert dataset.num_classes == 7
    with pytest.raises(UserError, match="data.name is 'absent'"):
        dataset.split("train")


def test_edm2_brings_its_own_log_variance():
    config = digits()
    network = {"name": "edm2", "channels": 8, "multipliers": (1, 2)}
    network |= {"channels_per_head": 8, "attention_resolutions": ()}
    config |= {"network": network, "loss": {"learn_log_variance": True}}
    made = build.build(config)
    params = jax.eval_shape(lambda: experiment.init_params(made))
    assert params.keys() == {"network"}
    assert "logvar" in params["network"]

    log_sigma = jax.ShapeDtypeStruct((3,), np.float32)
    assert jax.eval_shape(
        lambda p, s: experiment.log_variance(made, p)(s), params, log_sigma
    ).shape == (3,)
    projected = jax.eval_shape(lambda p: experiment.project_params(made, p), params)
    assert jax.tree.structure(projected) == jax.tree.structure(params)


def test_augmented_data_need_a_network_that_is_told():
    config = digits()
    config["data"]["augment_probability"] = 0.12
    with pytest.raises(build.ConfigError, match="augment_dims is 0; it must be 9"):
        build.build(config)
    config["network"] = {"name": "song_unet", "channels": 32, "augment_dims": 9}
    config["network"] |= {"multipliers": (1, 2), "attention_resolutions": ()}
    made = build.build(config)
    params = jax.eval_shape(lambda: experiment.init_params(made))
    batch = {
        "values": jax.ShapeDtypeStruct((4, 8, 8, 1), np.uint8),
        "label": jax.ShapeDtypeStruct((4,), np.int32),
    }
    loss = jax.eval_shape(
        lambda p, b: objective.batch_loss(made, jax.random.key(0), p, b), params, batch
    )
    assert loss.shape == (4,)
    config["network"]["augment_dims"] = 3
    with pytest.raises(build.ConfigError, match="augment_dims is 3; it must be 9"):
        build.build(config)
