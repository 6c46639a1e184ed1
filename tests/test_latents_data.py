"""Latents as data: files, scales, companions, and what is drawn of them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from score_sde.data import SOURCES, Dataset, InMemory, encoded
from score_sde.data.identity import identity
from score_sde.run.build import ConfigError, build
from score_sde.run.model import posterior_points
from score_sde.types import UserError

MEAN, STD = (0.5, -1.0), (2.0, 5.0)


def write_latents(folder, **changes):
    """A folder of random latents of the digits, as `score-sde encode` writes it."""
    random = np.random.default_rng(0)
    facts = {
        "shape": [4, 4, 2],
        "num_classes": 10,
        "counts": {"train": 40, "test": 10},
        "mean": list(MEAN),
        "std": list(STD),
        "decoder_std": 0.1,
        "source": {"name": "digits"},
        "autoencoder": {"run": "somewhere", "step": 3, "checksum": "abc"},
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in facts["counts"].items():
        shape = (count, 4, 4, 2)
        deviation = 0.8 * np.asarray(STD)
        means = random.normal(size=shape) * deviation + np.asarray(MEAN)
        np.savez(
            folder / f"{split}.npz",
            means=means.astype(np.float32),
            stds=np.full(shape, 0.6 * np.asarray(STD), np.float32),
            labels=np.arange(count) % 10,
        )
    (folder / encoded.FILE).write_text(json.dumps(facts))
    return facts


@pytest.fixture
def folder(tmp_path):
    write_latents(tmp_path / "latents")
    return tmp_path / "latents"


def test_a_model_sees_standardised_latents_and_their_deviations(folder):
    dataset = SOURCES["latents"](path=str(folder))
    assert dataset.format == ((4, 4, 2), None, 10)
    assert dataset.shown.name == "digits"
    assert dataset.made_by == {"autoencoder": "abc"}
    assert dataset.sigma_data == pytest.approx(1)
    rows = dataset.train[np.arange(40)]
    raw = np.load(folder / "train.npz")
    expected = (raw["means"] - np.asarray(MEAN)) / np.asarray(STD)
    np.testing.assert_allclose(rows["values"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rows["std"], 0.6, rtol=1e-6)
    assert rows["values"].dtype == rows["std"].dtype == np.float32
    np.testing.assert_allclose(
        dataset.to_units(rows["values"]), raw["means"], atol=1e-5
    )
    assert dataset.log_scale == pytest.approx(16 * np.log(10))


def test_training_draws_anew_from_the_posteriors(folder):
    rows = SOURCES["latents"](path=str(folder)).train[np.arange(40)]
    x = jnp.asarray(rows["values"])
    draws = jnp.stack([posterior_points(jr.key(i), x, rows) for i in range(200)])
    assert (draws[0] != draws[1]).all()
    np.testing.assert_allclose(draws.mean(0), x, atol=0.25)
    assert float((draws - x[None]).std()) == pytest.approx(0.6, rel=0.01)
    # What is drawn of an example does not depend on the others.
    part = {name: array[:3] for name, array in rows.items()}
    few = posterior_points(jr.key(0), x[:3], part)
    np.testing.assert_array_equal(few, draws[0, :3])
    assert (posterior_points(jr.key(0), x, {"values": x}) == x).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"scale": (1.0,)},
            "scale is 1 for channel 0 .* whose standard deviation is 2",
        ),
        ({"scale": (2.0, 1.0)}, "for channel 1 .* scaled it would be 5, .*0.8 to 1.25"),
        ({"scale": (2.0, 5.0, 1.0)}, "shift and scale have"),
        ({"path": ""}, "path is missing"),
        ({"path": "gs://bucket/latents"}, "a path on this machine"),
    ],
)
def test_scales_that_leave_a_channel_off_are_refused(folder, options, text):
    with pytest.raises(UserError, match=text):
        SOURCES["latents"](**{"path": str(folder)} | options)


def test_stated_scales_that_fit_are_taken(folder):
    dataset = SOURCES["latents"](path=str(folder), scale=(1.9, 5.5))
    assert dataset.units == ((0.0, 0.0), (1.9, 5.5))
    variances = np.asarray(STD) ** 2 / np.asarray([1.9, 5.5]) ** 2
    means = np.asarray(MEAN) / np.asarray([1.9, 5.5])
    expected = np.sqrt((variances + means**2).mean() - means.mean() ** 2)
    assert dataset.sigma_data == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"mean": [0.0]}, "is no description of latents"),
        ({"decoder_std": 0.0}, "decoder_std is 0"),
        ({"autoencoder": {}}, "is no description of latents"),
    ],
)
def test_a_description_that_is_none_is_refused(tmp_path, change, text):
    write_latents(tmp_path, **change)
    with pytest.raises(UserError, match=text):
        SOURCES["latents"](path=str(tmp_path))


def test_files_that_are_missing_or_others_are_refused(folder):
    with pytest.raises(UserError, match="score-sde encode"):
        SOURCES["latents"](path=str(folder / "nowhere"))
    np.savez(folder / "train.npz", means=np.zeros((3, 4, 4, 2), np.float32))
    dataset = SOURCES["latents"](path=str(folder))
    with pytest.raises(UserError, match="means are of shape"):
        _ = dataset.train
    (folder / "test.npz").unlink()
    with pytest.raises(UserError, match=r"set data\.on_the_fly"):
        _ = dataset.test


def test_the_identity_is_that_of_images_autoencoder_scale_and_latents(folder):
    def digest(**options):
        dataset = SOURCES["latents"](path=str(folder), **options)
        return identity(dataset)["digest"]

    first = digest()
    assert digest() == first
    assert digest(scale=(1.9, 5.5)) != first
    facts = json.loads((folder / encoded.FILE).read_text())
    facts["autoencoder"]["checksum"] = "another"
    (folder / encoded.FILE).write_text(json.dumps(facts))
    assert digest() != first


def test_latents_may_be_encoded_as_they_are_read(folder, monkeypatch):
    asked = []

    def opener(facts):
        asked.append(facts["checksum"])

        def encode(values):
            means = np.repeat(values.reshape(-1, 4, 2, 4, 2, 1)[:, :, 0, :, 0], 2, -1)
            return means.astype(np.float32), np.ones_like(means, np.float32)

        return encode

    monkeypatch.setitem(encoded.OPENERS, encoded.ROLE, opener)
    dataset = SOURCES["latents"](path=str(folder), on_the_fly=True)
    rows = dataset.train[np.arange(5)]
    assert asked == ["abc"]
    images = SOURCES["digits"]().train[np.arange(5)]
    expected = (images["values"][:, ::2, ::2].repeat(2, -1) - np.asarray(MEAN)) / STD
    np.testing.assert_allclose(rows["values"], expected, rtol=1e-5)
    np.testing.assert_allclose(rows["std"][0, 0, 0], 1 / np.asarray(STD))
    assert (rows["label"] == images["label"]).all()
    assert len(dataset.train) == 1437
    stored = identity(SOURCES["latents"](path=str(folder)))["digest"]
    assert identity(dataset)["digest"] != stored


def test_a_run_of_latents_needs_the_autoencoder(folder):
    from configs import digits

    config = digits.get_config("latent").to_dict()
    config["data"]["path"] = str(folder)
    config["companions"] = {}
    with pytest.raises(ConfigError, match="1 problem") as caught:
        build(config)
    assert "--config.companions.autoencoder.run=FOLDER" in str(caught.value)
    config["companions"] = {"autoencoder": {"run": str(folder)}}
    with pytest.raises(ConfigError, match="no run in") as caught:
        build(config)


def test_moved_latents_know_their_channels_apart():
    images = Dataset("i", (2, 2, 1), 4, 0, lambda _: InMemory(np.zeros((3, 2, 2, 1))))
    facts = encoded.Facts(
        (1, 1, 2), 0, {}, (1.0, 2.0), (1.0, 0.0), 0.1, {}, {"checksum": ""}
    )
    # A channel that never changes can't be scaled to deviation 1.
    with pytest.raises(UserError, match="channel 1"):
        encoded.scaled_units(facts, (), ())
    assert dataclasses.replace(images, name="j").shown.name == "j"
    assert jax.tree.leaves(
        encoded.as_seen(np.ones((1, 1, 1, 2)), None, encoded.Units())
    )
