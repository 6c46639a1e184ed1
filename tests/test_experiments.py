"""The programs, run as a user runs them, on a tiny network."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import score_sde as ss
from experiments import launch, train
from score_sde.data import DATASETS, SOURCES
from score_sde.run import edit as edits
from score_sde.run.build import build
from score_sde.run.status import read_status
from score_sde.types import UserError

ROOT = Path(__file__).parents[1]
TINY = {
    "network.channels": 8,
    "network.blocks_per_level": 1,
    "data.batch_size": 8,
    "optimizer.warmup_steps": 1,
    "train.num_steps": 2,
    "train.log_every": 1,
    "train.checkpoint_every": 1,
    "grid.num_steps": 3,
    "sampling.num_samples": 6,
    "sampling.batch_size": 4,
    "likelihood.rtol": 0.01,
    "likelihood.atol": 0.01,
    "likelihood.num_train": 4,
    "likelihood.batch_size": 120,
    "likelihood.num_checked": 4,
    "likelihood.bound_draws": 2,
}


def program(name, *arguments, code=0):
    command = [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def fields(**changes):
    values = TINY | {k.replace("__", "."): v for k, v in changes.items()}
    return [f"--config.{k}={v}" for k, v in values.items()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    out = program(
        "train", "--config=configs/digits.py", f"--workdir={workdir}", *fields()
    )
    assert "step       2/2" in out
    return workdir


def test_training_leaves_all_that_describes_a_run(trained):
    names = {path.name for path in trained.iterdir()}
    assert names >= {
        "checkpoints",
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "samples",
        "tensorboard",
    }
    config = json.loads((trained / "config.json").read_text())
    assert config["network"]["channels"] == 8
    assert config["optimizer"]["b2"] is not None  # defaults are written out
    with Image.open(trained / "samples" / "step_0000002.png") as picture:
        assert picture.size[0] > 100


def test_training_again_resumes_at_once(trained):
    out = program("train", f"--workdir={trained}")
    assert "is trained: 2 steps" in out


def test_samples_are_written_and_not_drawn_twice(trained):
    out = program("sample", f"--workdir={trained}")
    assert "6 samples of heun, 5 evaluations each" in out
    samples = np.load(trained / "samples.npz")["samples"]
    assert samples.shape == (6, 8, 8, 1)
    assert samples.dtype == np.uint8
    report = json.loads((trained / "samples.json").read_text())
    assert report["made_by"]["config"]["sampler.name"] == "heun"
    assert report["made"]["command"].endswith(f"--workdir={trained}")
    assert report["num_evals"] == 5
    assert "made before, from step 2" in program("sample", f"--workdir={trained}")
    out = program("sample", f"--workdir={trained}", "--config.sampling.batch_size=6")
    np.testing.assert_array_equal(np.load(trained / "samples.npz")["samples"], samples)
    other = program(
        "sample",
        f"--workdir={trained}",
        "--config.sampler.name=dpm_adaptive",
        "--config.sampler.eta=0.5",
    )
    assert "samples of dpm_adaptive" in other
    samples = np.load(trained / "samples.npz")
    assert samples["num_evals"].shape == (6,)  # each example has its own number
    assert samples["success"].all()
    assert not (trained / "samples_parts").exists()


@pytest.mark.slow
def test_every_test_image_is_scored_once(trained):
    out = program("likelihood", f"--workdir={trained}")
    assert "360 examples" in out
    scores = np.load(trained / "likelihood.npz")
    assert scores["test_bits_per_dim"].shape == (360,)
    assert scores["train_bits_per_dim"].shape == (4,)
    row = json.loads((trained / "likelihood.json").read_text())["splits"]["test"]
    values = scores["test_bits_per_dim"]
    assert row["bits_per_dim"] == pytest.approx(values.mean(), rel=1e-6)
    assert row["standard_error"] == pytest.approx(
        values.std(ddof=1) / np.sqrt(360), rel=1e-5
    )
    sources = {"data", "dequantisation", "probe", "solver", "solver_bound"}
    assert set(row["errors"]) == sources
    bound = scores["test_bound"]
    assert row["bound"] == pytest.approx(bound.mean(), rel=1e-6)
    assert row["bound_above"] == (bound.mean() >= values.mean())
    for name in ("loss_by_level.png", "rate_distortion.png"):
        with Image.open(trained / name) as picture:
            assert picture.size[0] > 100
    assert not (trained / "likelihood_parts").exists()
    again = program("likelihood", f"--workdir={trained}")  # at once, the same
    assert (
        again.splitlines() == [line for line in out.splitlines() if "absl" not in line]
        or again == out
    )


@pytest.mark.slow
def test_a_run_on_files_is_the_run_on_the_same_data_in_memory(tmp_path):
    """The digits as they come with the library, and as two archives of pictures."""
    for split in ("train", "test"):
        examples = DATASETS["digits"]().split(split)
        table = []
        with zipfile.ZipFile(tmp_path / f"{split}.zip", "w") as archive:
            for i, image in enumerate(examples.values[..., 0]):
                stream = io.BytesIO()
                Image.fromarray(image).save(stream, "PNG")
                archive.writestr(f"{i:04d}.png", stream.getvalue())
                table.append([f"{i:04d}.png", int(examples.labels[i])])
            archive.writestr("dataset.json", json.dumps({"labels": table}))
    places = {
        "data.name": "files",
        "data.path": tmp_path / "train.zip",
        "data.test_path": tmp_path / "test.zip",
        "data.shape": "(8,8,1)",
        "data.num_levels": 17,
        "data.num_classes": 10,
        "data.num_workers": 2,
    }
    losses, nats = [], []
    for name, changes in (("digits", {}), ("files", places)):
        workdir = tmp_path / name
        config = ["--config=configs/digits.py:label", f"--workdir={workdir}"]
        words = [f"--config.{k}={v}" for k, v in changes.items()]
        program("train", *config, *fields(), *words)
        program("likelihood", f"--workdir={workdir}")
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
        nats.append(np.load(workdir / "likelihood.npz")["test_nats"])
    assert losses[0] == losses[1]
    np.testing.assert_array_equal(nats[0], nats[1])


@pytest.mark.slow
def test_classes_are_drawn_as_asked_and_guided(tmp_path):
    workdir = tmp_path / "class"
    config = ["--config=configs/digits.py:label", f"--workdir={workdir}"]
    program("train", *config, *fields())
    labels = ["--config.conditions.label.samples=(3,7)"]
    out = program(
        "sample",
        f"--workdir={workdir}",
        *labels,
        "--config.guidance.name=classifier_free",
        "--config.guidance.weight=3.0",
        "--config.threshold.name=dynamic",
    )
    assert "6 samples of heun, 5 evaluations each" in out
    assert "guided: 2 to 2 of the network each time" in out
    assert np.load(workdir / "samples.npz")["labels"].tolist() == [3, 7] * 3
    opened = ss.open_run(workdir)
    rows = opened.dataset.test[np.arange(3)]
    of_classes = opened.class_log_probs(rows)
    assert of_classes.shape == (3, 10)
    for label in (0, 7):  # the points and probes of `log_prob`
        told = rows | {"label": np.full(3, label, np.int32)}
        nats = opened.log_prob(told).nats
        np.testing.assert_allclose(of_classes[:, label], nats, rtol=1e-4)
    guided = ["--config.guidance.name=classifier", *labels]
    out = program("sample", f"--workdir={workdir}", *guided, code=2)
    assert "it needs another run: --config.companions.classifier.run=FOLDER" in out
    other = tmp_path / "classifier"
    short = ["--config.train.num_steps=50", "--config.network.width=16"]
    program("train", "--config=digits:classifier", f"--workdir={other}", *short)
    guided.append(f"--config.companions.classifier.run={other}")
    out = program("sample", f"--workdir={workdir}", *guided)
    assert "6 samples" in out
    made_by = json.loads((workdir / "samples.json").read_text())["made_by"]
    assert made_by["companions"]["classifier"]["step"] == 50
    # A classifier is no denoiser, and a denoiser no classifier.
    out = program("sample", f"--workdir={other}", code=2)
    assert "was trained by objective 'classification': it has no denoiser" in out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_student_is_told_the_weight_of_its_teachers_guidance(tmp_path):
    workdir, student = tmp_path / "class", tmp_path / "student"
    config = ["--config=configs/digits.py:label", f"--workdir={workdir}"]
    program("train", *config, *fields())
    told = "--config.conditions.guidance_weight"
    program(
        "distil",
        *(f"--from={workdir}", "--config=digits_direct", f"--workdir={student}"),
        *(f"{told}.high=4.0", "--config.objective.num_trajectories=20"),
        *("--config.train.num_steps=3", "--config.optimizer.warmup_steps=0"),
        *("--config.data.batch_size=8", "--config.sampling.num_samples=6"),
    )
    out = program("sample", f"--workdir={student}", f"{told}.samples=(3.0,)")
    assert "6 samples of jump, 1 eval" in out
    out = program("sample", f"--workdir={student}", f"{told}.samples=(9.0,)", code=2)
    assert "9.0 is no weight from 1.0 to 4.0" in out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["direct", "progressive", "tuning", "mean_flow"])
def test_a_run_is_distilled(trained, tmp_path, name):
    """The student resumes, is sampled, or refused, and names its run."""
    workdir = f"--workdir={tmp_path / name}"
    short = {
        "train.num_steps": 3,
        "optimizer.warmup_steps": 0,
        "data.batch_size": 8,
        "sampling.num_samples": 6,
        "sampling.batch_size": 6,
    }
    if name == "direct":
        short["objective.num_trajectories"] = 20
    if name == "progressive":
        short["optimizer.cycles"] = 1
    options = [f"--config.{k}={v}" for k, v in short.items()]
    config = [f"--from={trained}", f"--config=digits_{name}", workdir]
    out = program("distil", *config, *options)
    assert "step       3/3" in out
    assert "is trained" in program("distil", *config, *options)
    out = program("sample", workdir)
    count = 2 if name == "tuning" else 1
    assert (
        f"6 samples of {'consistency' if count == 2 else 'jump'}, {count} eval" in out
    )
    companions = json.loads((tmp_path / name / "samples.json").read_text())["made_by"]
    assert companions["companions"]["teacher"]["step"] == 2
    heun = ["--config.sampler.name=heun", "--config.grid.name=karras"]
    heun.append("--config.grid.num_steps=3")
    is_denoiser = name == "mean_flow"
    out = program("sample", workdir, *heun, code=0 if is_denoiser else 2)
    assert ("6 samples of heun" if is_denoiser else "trains no denoiser") in out
    if not is_denoiser:
        assert "has no denoiser" in program("likelihood", workdir, code=2)
    if name == "progressive":
        grid = "--config.grid.sigmas=(80.0,2.5)"
        out = program("sample", workdir, grid, code=2)
        assert "it jumps from one to the next of the levels 80, 0" in out


@pytest.mark.slow
def test_a_student_is_scored_in_a_few_jumps(trained, tmp_path):
    """Beside the flow of its teacher; it draws no samples, and others have no jumps."""
    short = {
        "train.num_steps": 3,
        "optimizer.warmup_steps": 0,
        "data.batch_size": 8,
        "objective.num_trajectories": 8,
    }
    options = [f"--config.{k}={v}" for k, v in short.items()]
    workdir = tmp_path / "few"
    given = f"--workdir={workdir}"
    program(
        *("distil", f"--from={trained}", "--config=digits:direct_likelihood"),
        *(given, *options),
    )
    out = program("likelihood", given, "--config.likelihood.num_jumps=4")
    assert "bits/dim by 4 jumps (data" in out
    assert "from the flow of its teacher" in out
    row = json.loads((workdir / "likelihood.json").read_text())["splits"]["test"]
    arrays = np.load(workdir / "likelihood.npz")
    np.testing.assert_array_equal(arrays["test_num_evals"], 4)
    assert row["flow"]["compared"] == 360
    exact = row["bits_per_dim"] - row["flow"]["difference"]
    assert row["flow"]["bits_per_dim"] == pytest.approx(exact, abs=1e-5)
    assert set(row["errors"]) == {"data", "dequantisation"}
    assert "has no denoiser" in program("sample", given, code=2)
    out = program(
        *("likelihood", f"--workdir={trained}", "--config.likelihood.num_jumps=4"),
        code=2,
    )
    assert "'denoising' learns no divergence of jumps" in out


@pytest.mark.slow
def test_captions_are_drawn(tmp_path):
    workdir = f"--workdir={tmp_path / 'text'}"
    program("train", "--config=configs/digits.py:words", workdir, *fields())
    caption = "--config.conditions.words.samples=('the digit seven',)"
    guided = "--config.guidance.name=classifier_free"
    assert "6 samples" in program("sample", workdir, caption, guided)
    wrong = "--config.conditions.words.samples=('a cat',)"
    out = program("sample", workdir, wrong, code=2)
    assert (
        "conditions.words: samples: unknown word 'cat'; choose from ['a', 'the'" in out
    )


@pytest.mark.slow
def test_attributes_are_drawn_and_scored(tmp_path):
    workdir = f"--workdir={tmp_path / 'vector'}"
    program("train", "--config=configs/digits.py:vector", workdir, *fields())
    stated = "--config.conditions.vector.samples=(0.3,0.2,0.17)"
    guided = "--config.guidance.name=classifier_free"
    assert "6 samples" in program("sample", workdir, stated, guided)
    vectors = np.load(tmp_path / "vector/samples.npz")["vectors"]
    np.testing.assert_array_equal(vectors, vectors[:1].repeat(6, axis=0))
    assert "360 examples" in program("likelihood", workdir)


@pytest.mark.slow
def test_a_trained_run_is_controlled_and_guides_by_being_worse(trained, tmp_path):
    workdir = f"--workdir={tmp_path / 'control'}"
    config = "--config=configs/digits.py:control"
    out = program("train", config, workdir, code=2)
    assert "it needs the network of another run: --config.companions.trunk.run" in out
    options = ["--config.train.num_steps=1", "--config.optimizer.warmup_steps=0"]
    options += [
        "--config.data.batch_size=8",
        f"--config.companions.trunk.run={trained}",
    ]
    before = sorted((trained / "checkpoints").rglob("*"))
    program("train", config, workdir, *options)
    assert sorted((trained / "checkpoints").rglob("*")) == before
    grid = ["--config.grid.num_steps=3", "--config.sampling.num_samples=6"]
    program("sample", workdir, *grid)
    program("sample", f"--workdir={trained}", *grid)
    made_by = json.loads((tmp_path / "control/samples.json").read_text())["made_by"]
    assert made_by["companions"]["trunk"]["step"] == 2
    # A model that is led away from itself stays.
    auto = ["--config.guidance.name=auto", f"--config.companions.worse.run={trained}"]
    plain = np.load(trained / "samples.npz")["samples"]
    out = program("sample", f"--workdir={trained}", *grid, *auto)
    assert "guided: 2 to 2 of the network" in out
    same = np.load(trained / "samples.npz")["samples"]
    assert (same != plain).mean() < 0.01  # a rounding at the edge of a level
    points = f"--workdir={tmp_path / 'points'}"
    few = ["--config.train.num_steps=1", "--config.sampling.num_samples=4"]
    program("train", "--config=points", points, *few)
    out = program("sample", points, *auto, code=2)
    assert "companions.worse: " in out
    assert "is of data of shape (8, 8, 1) with 17 levels, this run of shape (2,)" in out


@pytest.fixture
def pictures(tmp_path):
    """A picture of the size of the digits, a mask, and files that won't do."""
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    mask = np.zeros((8, 8), np.uint8)
    mask[4:] = 255
    files = {"image": grey, "mask": mask, "black": 0 * mask, "large": np.tile(grey, 2)}
    for name, pixels in files.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


@pytest.mark.slow
def test_a_picture_is_edited_and_its_known_pixels_stay(trained, pictures):
    out = program(
        "edit",
        f"--workdir={trained}",
        "--config.editing.task=inpaint",
        f"--config.editing.image={pictures / 'image.png'}",
        f"--config.editing.mask={pictures / 'mask.png'}",
        "--config.editing.num_samples=3",
    )
    assert "then 3 results of inpaint" in out
    arrays = np.load(trained / "edited.npz")
    assert arrays["edited"].shape == (3, 8, 8, 1)
    # 255 is the highest of 17 levels: its bin's centre is 16/17.
    grey = np.arange(64).reshape(1, 8, 8, 1) * 4 / 255
    expected = (2 * 16 * grey + 1) / 17 - 1
    known = np.broadcast_to(expected[:, :4], (3, 4, 8, 1))
    np.testing.assert_allclose(arrays["edited"][:, :4], known, atol=1e-6)
    assert np.ptp(arrays["edited"][:, 4:], axis=0).min() > 0
    with Image.open(trained / "edited.png") as picture:
        assert picture.size[0] > 100
    np.testing.assert_allclose(arrays["mean"], arrays["edited"].mean(0), atol=1e-6)
    np.testing.assert_allclose(arrays["std"], arrays["edited"].std(0), atol=1e-6)
    # The same again is there; by another method it is made anew, in parts.
    stroke = [
        "edit",
        f"--workdir={trained}",
        "--config.editing.task=stroke",
        f"--config.editing.image={pictures / 'image.png'}",
        f"--config.editing.mask={pictures / 'mask.png'}",
        "--config.editing.num_samples=3",
        "--config.sampling.batch_size=1",
        "--config.restoration.name=ddrm",
        "--config.restoration.eta=0.5",
    ]
    assert "3 results of stroke by ddrm" in program(*stroke)
    assert "made before" in program(*stroke)
    found = np.load(trained / "edited.npz")["edited"]
    np.testing.assert_allclose(found[:, :4], known, atol=1e-6)
    assert not np.allclose(found, arrays["edited"], atol=1e-2)
    assert not (trained / "edited_parts").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "editing.image is missing: give --config.editing.image=FILE"),
        ({"image": "none.png"}, "editing.image: .*No such file .*none.png"),
        ({"image": "text.png"}, "editing.image: it is no picture"),
        ({"image": "large.png"}, "large.png is 16 x 8; it must be 8 x 8 pixels"),
        ({"task": "inpaint", "image": "image.png"}, "editing.mask is missing"),
        (
            {"task": "inpaint", "image": "image.png", "mask": "large.png"},
            "editing.mask: .* is 16 x 8; it must be 8 x 8",
        ),
        (
            {"task": "inpaint", "image": "image.png", "mask": "black.png"},
            "has nothing white: nothing to draw",
        ),
        ({"task": "super_resolve", "factor": 3}, "factor is 3; it must divide"),
        ({"task": "colourise"}, "editing.task is 'colourise'; .*three colours"),
        ({"task": "sharpen"}, "editing.task is 'sharpen'; choose from"),
        ({"strength": 0.0}, "editing.strength is 0.0; it must be > 0 and <= 1"),
        ({"quality": 0}, "editing.quality is 0; it must be from 1 to 100"),
    ],
)
def test_files_to_edit_are_checked_before_any_device_work(pictures, fields, message):
    config = launch.load_config(str(ROOT / "configs/digits.py"), Path())
    files = {"image", "mask"}
    config["editing"] = {
        k: str(pictures / v) if k in files else v for k, v in fields.items()
    }
    with pytest.raises(UserError, match=message):
        edits.read(build(config))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "replace"}, "restoration: replace takes what was measured as free"),
        ({"name": "dps", "step": 0.0}, "restoration.step is 0.0; it must be > 0"),
        ({"name": "daps", "langevin": 3}, "restoration.langevin: no such field"),
        ({"name": "ddmr"}, "restoration.name is 'ddmr'; did you mean 'ddrm'"),
    ],
)
def test_methods_of_restoration_are_checked_with_the_config(method, message):
    config = launch.load_config(str(ROOT / "configs/digits.py"), Path())
    config["editing"] = {"task": "deblur", "noise_std": 0.1}
    config["restoration"] = method
    with pytest.raises(UserError, match=message):
        build(config)


@pytest.mark.parametrize("text", ['{"train": {"num', "[]"])
def test_a_damaged_config_of_a_run_is_named(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    for read in (
        lambda: launch.load_config(None, tmp_path),
        lambda: read_status(tmp_path),
    ):
        with pytest.raises(UserError, match="config.json is damaged"):
            read()


def test_a_dry_run_of_a_classifier_trains_none(tmp_path, capsys):
    workdir = tmp_path / "none"
    words = ["--config=digits:classifier", f"--workdir={workdir}", "--dry_run"]
    train.main(launch.parse("", words, flags=train.FLAGS))
    assert "parameters: " in capsys.readouterr().out
    assert not workdir.exists()


def test_a_dry_run_prints_and_writes_nothing(tmp_path):
    workdir = tmp_path / "none"
    out = program(
        "train", "--config=configs/digits.py:vp", f"--workdir={workdir}", "--dry_run"
    )
    assert '"name": "vp"' in out
    assert '"beta_max": 20.0' in out
    assert "parameters: " in out
    assert "operations: " in out
    assert "MiB of state" in out
    assert not workdir.exists()


def test_sampling_without_a_checkpoint_says_so(tmp_path):
    out = program(
        "sample",
        "--config=configs/digits.py",
        f"--workdir={tmp_path}",
        *fields(),
        code=1,
    )
    assert "no checkpoint in" in out


def test_all_mistakes_in_a_config_come_in_one_report_without_a_traceback(tmp_path):
    out = program(
        "train",
        "--config=configs/digits.py",
        f"--workdir={tmp_path / 'none'}",
        "--config.sde.name=vpsde",
        "--config.network.channels=-8",
        code=2,
    )
    assert "2 problems in the config:" in out
    assert "sde.name is 'vpsde'; choose from" in out
    assert not (tmp_path / "none").exists()


def test_training_on_with_another_model_is_refused(trained):
    out = program(
        "train", f"--workdir={trained}", "--config.network.channels=16", code=2
    )
    assert "network.channels: 8 -> 16" in out


def test_a_workdir_that_is_a_file_is_named(tmp_path):
    path = tmp_path / "file"
    path.touch()
    out = program("train", "--config=configs/digits.py", f"--workdir={path}", code=2)
    assert f"--workdir: {path}: File exists" in out


@pytest.mark.slow
def test_samples_and_densities_of_a_table_are_in_its_units(tmp_path):
    """The same values with and without units: the results differ by the map alone."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(200, 2)) * [9.0, 0.01] + [1000.0, 0.0]
    np.savez(tmp_path / "table.npz", x=table)
    program("prepare_data", f"--from={tmp_path}/table.npz", f"--to={tmp_path}/own.npz")
    with np.load(tmp_path / "own.npz") as file:
        np.savez(tmp_path / "plain.npz", latents=file["latents"])
    stated = ["--config.data.shape=(2,)", "--config.data.num_levels=0"]
    found = {}
    for name, more in (("own", []), ("plain", stated)):
        words = [
            f"--workdir={tmp_path / name}",
            "--config=points",
            "--config.data.name=files",
            f"--config.data.path={tmp_path / name}.npz",
            "--config.data.batch_size=64",
            "--config.data.sigma_data=1.0",
            "--config.train.num_steps=20",
            "--config.sampling.num_samples=8",
            "--config.grid.num_steps=4",
            *more,
        ]
        program("train", *words)
        program("sample", words[0])
        program("likelihood", words[0], "--config.likelihood.num_checked=4")
        scores = json.loads((tmp_path / name / "likelihood.json").read_text())
        samples = np.load(tmp_path / name / "samples.npz")["samples"]
        found[name] = samples, scores["splits"]["test"]
    dataset = SOURCES["files"](path=str(tmp_path / "own.npz"))
    (own, scores), (plain, plain_scores) = found["own"], found["plain"]
    np.testing.assert_allclose(own, dataset.to_units(plain), rtol=1e-6)
    assert abs(own[:, 0].mean() - 1000) < 30
    off = np.log(dataset.units.scale).sum() / (2 * np.log(2))
    for name in ("bits_per_dim", "bound"):
        assert scores[name] - plain_scores[name] == pytest.approx(off, abs=1e-5), name
    assert scores["errors"] == pytest.approx(plain_scores["errors"], abs=1e-5)
    # In Python too.
    run = ss.open_run(tmp_path / "own")
    np.testing.assert_allclose(run.sample(8).levels, own, rtol=1e-6)
    rows = run.dataset.test[np.arange(4)]
    nats = run.log_prob(rows).nats + run.dataset.log_scale
    plain_nats = ss.open_run(tmp_path / "plain").log_prob(rows).nats
    np.testing.assert_allclose(nats, plain_nats, rtol=1e-5)
