"""Both stages by the programs: train, encode, train in latents, sample, score."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(1200)
AUTOENCODER = {
    "network.channels": 8,
    "network.groups": 4,
    "objective.discriminator_channels": 8,
    "objective.perceptual": "none",
    "train.num_steps": 3,
    "train.log_every": 1,
    "optimizer.warmup_steps": 1,
    "data.batch_size": 8,
}
LATENT = {
    "network.channels": 8,
    "data.batch_size": 8,
    "optimizer.warmup_steps": 1,
    "train.num_steps": 2,
    "train.log_every": 1,
    "grid.num_steps": 3,
    "sampling.num_samples": 6,
    "sampling.batch_size": 4,
    "likelihood.rtol": 0.01,
    "likelihood.atol": 0.01,
    "likelihood.num_train": 0,
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


def fields(values):
    return [f"--config.{name}={value}" for name, value in values.items()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of an autoencoder, with its latents, and of a diffusion in them."""
    folder = tmp_path_factory.mktemp("runs")
    first, second = folder / "autoencoder", folder / "latent"
    program(
        "train",
        "--config=configs/digits.py:autoencoder",
        f"--workdir={first}",
        *fields(AUTOENCODER),
    )
    out = program("encode", f"--workdir={first}")
    assert "1,437 train, 360 test" in out
    where = [
        f"--config.data.path={first / 'latents'}",
        f"--config.companions.autoencoder.run={first}",
    ]
    config = "--config=configs/digits.py:latent"
    program("train", config, f"--workdir={second}", *where, *fields(LATENT))
    return first, second


@pytest.mark.slow
def test_encoding_records_whose_latents_they_are(runs):
    first, second = runs
    facts = json.loads((first / "latents/latents.json").read_text())
    assert facts["source"] == {"name": "digits"}
    inputs = json.loads((second / "inputs.json").read_text())
    assert (
        inputs["companions"]["autoencoder"]["checksum"]
        == (facts["autoencoder"]["checksum"])
    )
    means = np.load(first / "latents/train.npz")["means"]
    assert means.shape == (1437, 4, 4, 2)


@pytest.mark.slow
def test_samples_and_their_evaluation_are_of_images(runs):
    _, second = runs
    program("sample", f"--workdir={second}")
    whole = np.load(second / "samples.npz")["samples"]
    assert (whole.shape, whole.dtype) == ((6, 8, 8, 1), np.uint8)
    assert whole.max() <= 16
    made_by = json.loads((second / "samples.json").read_text())["made_by"]
    assert made_by["companions"]["autoencoder"]["step"] == 3
    more = [
        "--config.metrics={'frechet_distance': {}}",
        "--config.evaluation.num_shown=0",
    ]
    out = program("evaluate", f"--workdir={second}", *more)
    assert "1,437 examples of digits, train split" in out
    tiled = ["--config.sampling.decode_tile=3"]
    program("sample", f"--workdir={second}", *tiled)
    blended = np.load(second / "samples.npz")["samples"].astype(int)
    assert np.abs(blended - whole.astype(int)).mean() < 3


@pytest.mark.slow
def test_likelihoods_are_of_images_by_a_bound(runs):
    _, second = runs
    out = program("likelihood", f"--workdir={second}")
    assert "bits/dim of images, a bound by flow and autoencoder" in out
    row = json.loads((second / "likelihood.json").read_text())["splits"]["test"]
    assert row["of"] == "images"
    assert row["scored"] == 360
    # A level by itself takes log2(17) = 4.1 bits; black ones are many.
    assert 2 < row["bits_per_dim"] < 20


@pytest.mark.slow
def test_an_autoencoder_is_measured_and_is_no_denoiser(runs):
    first, _ = runs
    distance = "--config.objective.perceptual=classifier"
    out = program("reconstruct", f"--workdir={first}", distance)
    report = json.loads((first / "reconstruct.json").read_text())
    assert report["metrics"].keys() == {"psnr", "ssim", "rfd", "classifier"}
    assert 0 < report["metrics"]["classifier"]["value"] < 2
    assert "a channel's mean and std" in out
    out = program("sample", f"--workdir={first}", code=2)
    assert "it has no denoiser" in out


@pytest.mark.slow
def test_a_picture_is_changed_in_latents(runs, tmp_path):
    from PIL import Image

    _, second = runs
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(grey).save(tmp_path / "grey.png")
    image = f"--config.editing.image={tmp_path / 'grey.png'}"
    out = program("edit", f"--workdir={second}", image)
    assert "8 results of image_to_image" in out
    assert np.load(second / "edited.npz")["edited"].shape == (8, 8, 8, 1)
    task = "--config.editing.task=inpaint"
    out = program("edit", f"--workdir={second}", image, task, code=2)
    assert "editing.task is 'inpaint'; a picture is measured in pixels" in out


@pytest.mark.slow
def test_another_autoencoder_is_refused(runs, tmp_path):
    first, second = runs
    path = first / "latents/latents.json"
    before = path.read_text()
    facts = json.loads(before)
    facts["autoencoder"]["checksum"] = "0123456789abcdef"
    try:
        path.write_text(json.dumps(facts))
        out = program("sample", f"--workdir={second}", code=2)
    finally:
        path.write_text(before)
    assert "the latents were made by those of 0123456789abcdef" in out
    out = program("encode", f"--workdir={second}", code=2)
    assert "it has no autoencoder" in out


@pytest.mark.slow
def test_latents_that_are_encoded_on_the_fly_are_the_stored_ones(runs, tmp_path):
    first, _ = runs
    where = [
        f"--config.data.path={first / 'latents'}",
        f"--config.companions.autoencoder.run={first}",
    ]
    losses = []
    for name, fly in (("stored", False), ("flying", True)):
        config = "--config=configs/digits.py:latent"
        options = [*fields(LATENT), f"--config.data.on_the_fly={fly}"]
        program("train", config, f"--workdir={tmp_path / name}", *where, *options)
        rows = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(row)["loss"] for row in rows])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
