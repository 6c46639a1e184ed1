"""A stranger's parts work with every program, and no file of the package changes."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import score_sde as ss
from experiments import evaluate, likelihood, sample, train
from experiments.launch import Command, parse
from score_sde.data import DATASETS
from score_sde.run import build

pytestmark = pytest.mark.usefixtures("standard_promotion")
HERE = Path(__file__).parent
PARTS = HERE / "strangers_parts.py"

CONFIG = {
    "seed": 0,
    "parts": (str(PARTS),),
    "data": {"name": "blobs", "batch_size": 8, "spread": 0.2},
    "sde": {"name": "quadratic_time", "scale": 12.0},
    "conditions": {"side": {"offset": 0.25}},
    "network": {"name": "small", "width": 6},
    "precondition": {"name": "plain_scale", "floor": 0.5},
    "noise_levels": {"name": "triangular", "width": 2.0},
    "weight": {"name": "capped", "cap": 9.0},
    "objective": {"name": "denoising"},
    "train": {"num_steps": 3, "log_every": 1, "sample_every": 3, "checkpoint_every": 3}
    | {"power_ema_stds": (0.1,), "snapshot_every": 3},
    "sampler": {"name": "half_steps", "ratio": 0.4},
    "grid": {"name": "geometric", "num_steps": 4, "power": 0.9},
    "guidance": {"name": "a_bit_further", "push": 1.2},
    "sampling": {"num_samples": 8, "batch_size": 4},
    "likelihood": {"batch_size": 16, "num_checked": 2, "bound_draws": 2}
    | {"rtol": 1e-2, "atol": 1e-2, "divergence": "exact"},
    "features": {"name": "doubled", "factor": 3.0},
    "metrics": {"mean_shift": {"scale": 0.5}, "frechet_distance": {}},
    "evaluation": {"in_training": 6, "step_counts": (2, 6)},
    "extra": {"note": "of mine", "nested": {"field": (1, 2)}},
}


def config_with(**sections):
    return copy.deepcopy(CONFIG) | sections


def trained(folder, config):
    with jax.numpy_dtype_promotion("standard"):  # of optax's counters
        train.main(Command(config, folder, False, {"allow_config_change": False}))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "mine", CONFIG)


def test_strangers_parts_train_sample_and_score(run):
    """The run is opened by its folder alone, in another process too."""
    kept = json.loads((run / "config.json").read_text())
    assert kept["parts"] == [str(PARTS)]
    assert kept["extra"] == {"note": "of mine", "nested": {"field": [1, 2]}}
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["mean_shift"] > 0
    low, value, high = (last[f"frechet_distance{end}"] for end in (".low", "", ".high"))
    assert low <= value <= high
    assert {"2_steps.mean_shift", "ema_0.1.6_steps.mean_shift"} <= last.keys()
    command = parse("", [f"--workdir={run}"])
    sample.main(command)
    likelihood.main(command)
    with np.load(run / "samples.npz") as found:
        assert found["samples"].shape == (8, 3)
        assert set(np.unique(found["sides"])) <= {-1.0, 1.0}
    report = json.loads((run / "likelihood.json").read_text())
    assert np.isfinite(report["splits"]["test"]["bits_per_dim"])
    evaluate.main(command)
    found = json.loads((run / "evaluation.json").read_text())["metrics"]
    with np.load(run / "samples.npz") as file:
        real = DATASETS["blobs"](spread=0.2).train.values
        shift = 1.5 * np.linalg.norm(real.mean(0) - file["samples"].mean(0))
    assert found["mean_shift"]["samples"]["value"]["value"] == pytest.approx(shift)
    assert found.keys() == {"mean_shift", "frechet_distance"}
    rows = json.loads((run / "evaluation.json").read_text())["by_steps"]
    assert [row["num_steps"] for row in rows] == [2, 6]
    assert rows[0]["num_evals"] < rows[1]["num_evals"]
    assert all(row["metrics"].keys() > {"mean_shift"} for row in rows)
    assert (run / "evaluation.png").stat().st_size > 1_000
    code = (
        "import score_sde as ss\n"
        f"run = ss.open_run({str(run)!r})\n"
        "print(run.step, run.sde.scale, run.dataset.name, run.sampler.ratio)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert out.split() == ["3", "12.0", "blobs", "0.4"]


def test_a_run_in_a_notebook_is_three_lines(run):
    opened = ss.open_run(run)
    x = np.zeros((2, 3), np.float32)
    cond = {"side": np.ones((2, 1), np.float32)}
    assert opened.denoiser(x, 0.5, cond).shape == (2, 3)
    drawn = opened.sample(8)
    assert np.isfinite(drawn.levels).all()
    rows = opened.dataset.test[np.arange(4)]
    nats = opened.log_prob(rows).nats
    assert nats.shape == (4,)
    # Batches of one size are compiled once, and an example has its own random numbers.
    later = opened.log_prob(opened.dataset.test[np.arange(1, 5)], first=1)
    np.testing.assert_allclose(later.nats[:3], nats[1:], rtol=1e-4)
    np.testing.assert_allclose(
        opened.sample(8, first=2).levels[:6], drawn.levels[2:], rtol=1e-5, atol=1e-6
    )
    assert opened._score._cache_size() == 1
    assert [draw._cache_size() for _, draw in opened._draws] == [1]
    with pytest.raises(ValueError, match="this model is told no class"):
        opened.class_log_probs(rows)
    # They are the samples that the program draws.
    with np.load(run / "samples.npz") as found:
        np.testing.assert_allclose(drawn.levels, found["samples"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param(
            {"network": {"name": "small_nnx", "width": 5}, "conditions": {}},
            marks=pytest.mark.slow,
        ),
        {"network": {"name": "linear_map", "gain": 0.2}, "conditions": {}},
        pytest.param(
            {"objective": {"name": "absolute_error", "blur": 0.3}},
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda s: next(iter(s.values()))["name"],
)
def test_networks_and_objectives_of_every_kind_train(sections, tmp_path):
    guidance = {"guidance": {"name": "none"}}
    folder = trained(tmp_path / "run", config_with(**sections, **guidance))
    opened = ss.open_run(folder)
    assert np.isfinite(opened.sample(3).levels).all()
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    assert np.isfinite(json.loads(rows[-1])["test_loss"])


@pytest.mark.slow
def test_series_are_data_too_and_a_scale_that_does_not_suit_is_said(tmp_path, capsys):
    config = config_with(
        data={"name": "waves", "batch_size": 4, "sigma_data": 0.5},
        network={"name": "unet", "channels": 4, "multipliers": (1, 2)},
        conditions={},
        guidance={"name": "none"},
    )
    folder = trained(tmp_path / "run", config)
    said = capsys.readouterr().out
    assert "have standard deviation 14.2, and data.sigma_data is 0.5: " in said
    assert (folder / "samples/step_0000003.png").stat().st_size > 1_000
    opened = ss.open_run(folder)
    assert opened.sample(2).levels.shape == (2, 8, 2)
    assert np.isfinite(opened.log_prob(opened.dataset.test[np.arange(2)]).nats).all()
    config["data"]["sigma_data"] = None
    assert build.build(config).model.sigma_data == pytest.approx(14.2, abs=0.1)


def test_a_strangers_guidance_gets_the_run_that_its_argument_names(run, tmp_path):
    config = config_with(
        guidance={"name": "towards_teacher", "share": 1.0},
        companions={"teacher": {"run": str(run)}},
        seed=1,
    )
    folder = trained(tmp_path / "student", config)
    teacher, student = ss.open_run(run), ss.open_run(folder)
    x = np.ones((2, 3), np.float32)
    cond = {"side": np.ones((2, 1), np.float32)}
    expected = teacher.denoiser(x, 0.5, cond)
    np.testing.assert_allclose(student.guided(x, 0.5, cond), expected, rtol=1e-5)
    assert np.abs(student.denoiser(x, 0.5, cond) - expected).max() > 1e-3
    shutil.rmtree(folder)


BAD = [
    ("sde", "scale", -1.0, "it must be > 0"),
    ("weight", "cap", float("nan"), "it must be a number"),
    ("sampler", "ratio", 0.0, "it must be > 0"),
    ("grid", "num_steps", 2.5, "it must be int"),
    ("grid", "power", float("inf"), "it must be finite"),
    ("noise_levels", "width", "wide", "it must be float"),
    ("network", "width", 0, "it must be > 0"),
    ("precondition", "floor", -0.1, "it must be > 0"),
    ("guidance", "push", -0.1, "it must be > 0"),
    ("data", "spread", 0.0, "it must be > 0"),
    ("conditions.side", "offset", 0.0, "it must be > 0"),
    ("metrics.mean_shift", "scale", 0.0, "it must be > 0"),
    ("features", "factor", -1.0, "it must be > 0"),
]


@pytest.mark.parametrize(("section", "field", "value", "rule"), BAD)
def test_a_wrong_option_of_a_stranger_is_one_line(section, field, value, rule):
    config = config_with()
    holder = config
    for name in section.split("."):
        holder = holder[name]
    holder[field] = value
    with pytest.raises(build.ConfigError) as error:
        build.build(config)
    (problem,) = error.value.problems
    assert problem.startswith(f"{section}.{field} is {value!r}; {rule}")
    holder[field[:-1] + "x"] = holder.pop(field)
    with pytest.raises(build.ConfigError, match=f"{section}.{field[:-1]}x: no such"):
        build.build(config)


def test_state_of_a_batch_is_refused_by_its_name(tmp_path):
    config = config_with(network={"name": "averaging"}, conditions={})
    config["guidance"] = {"name": "none"}
    with pytest.raises(ss.types.UserError, match="batch_stats"):
        trained(tmp_path / "run", config)


@pytest.mark.slow
def test_a_config_file_that_registers_is_found_again(tmp_path):
    """As the file in --config, which registers where it is loaded."""
    file = tmp_path / "mine.py"
    config = {k: v for k, v in CONFIG.items() if k != "parts"}
    file.write_text(
        f"{PARTS.read_text()}\n\nfloat_inf = float('inf')\n"
        f"def get_config():\n    return {config!r}\n"
    )
    code = (
        "import sys\nfrom experiments.train import main, FLAGS\n"
        "from experiments import launch\n"
        "launch.run(main, '', flags=FLAGS)"
    )
    for program, words in (
        ("-c", [code, f"--config={file}", f"--workdir={tmp_path / 'run'}"]),
        ("-m", ["experiments.sample", f"--workdir={tmp_path / 'run'}"]),
    ):
        done = subprocess.run(
            [sys.executable, program, *words],
            cwd=HERE.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "run/config.json").read_text())
    assert kept["parts"] == [str(file)]
