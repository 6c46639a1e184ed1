"""Tasks of editing in a config: a stranger's own, what they are given, and refusals."""

from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from PIL import Image

from configs import digits
from score_sde import editing
from score_sde.run import edit
from score_sde.run.build import ConfigError, build
from score_sde.run.sections import complete
from score_sde.run.train import initial_params
from score_sde.types import UserError

PARTS = str(Path(__file__).parent / "strangers_parts.py")


def made(restoration, **fields):
    config = digits.get_config().to_dict() | {"editing": fields, "parts": (PARTS,)}
    return build(complete(config | {"restoration": restoration}))


def drawn(experiment, given, sees=None):
    """Shapes of what would be drawn: traced, so that nothing is computed."""
    params = jax.eval_shape(lambda: initial_params(experiment))
    return jax.eval_shape(
        lambda params, keys: edit.draw_edits(experiment, given, params, keys, None),
        params,
        jax.eval_shape(lambda: jr.split(jr.key(0), 2)),
    )


def test_an_operator_of_ones_own_is_named_in_a_config(tmp_path):
    file = tmp_path / "rows.npy"
    y = np.random.default_rng(0).normal(size=(4, 8, 1))
    np.save(file, y)
    task = {"task": "every_other_row", "image": str(file)}
    experiment = made({"name": "pseudo_inverse"}, **task)
    given = edit.read(experiment)
    np.testing.assert_allclose(given.y[0], y, rtol=1e-6)
    shown = np.asarray(given.shown())[0]
    np.testing.assert_allclose(shown[::2], y, rtol=1e-6)
    assert (shown[1::2] == 0).all()
    assert drawn(experiment, given).edited.shape == (2, 8, 8, 1)
    Image.fromarray(np.full((4, 8), 255, np.uint8)).save(tmp_path / "rows.png")
    picture = made(
        {"name": "pseudo_inverse"}, **task | {"image": str(tmp_path / "rows.png")}
    )
    assert (edit.read(picture).y == edit.read(picture).y.max()).all()


def test_a_phase_is_named_in_a_config(tmp_path):
    file = tmp_path / "magnitudes.npy"
    np.save(file, np.ones((16, 16, 1), np.float32))
    experiment = made({"name": "dps"}, task="phase", image=str(file))
    given = edit.read(experiment)
    assert given.shown().shape == (1, 8, 8, 1)
    assert drawn(experiment, given).edited.shape == (2, 8, 8, 1)


@pytest.mark.parametrize(
    ("method", "fields", "message"),
    [
        ("ddrm", {"task": "every_other_row"}, "ddrm needs the singular values"),
        ("diffpir", {"task": "phase"}, "diffpir is for linear measurements"),
        ("ddrm", {"task": "jpeg"}, "ddrm is for linear measurements, and JPEG is not"),
        ("daps", {"task": "jpeg"}, "daps is for linear measurements"),
        ("dps", {"task": "super_resolve", "factor": 3}, "editing.factor is 3; it must"),
        ("dps", {"task": "phases"}, "did you mean 'phase'"),
    ],
)
def test_a_method_that_can_t_is_refused_with_the_config(method, fields, message):
    with pytest.raises(ConfigError, match=message):
        made({"name": method}, **fields)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.ones((8, 8, 1)), r"has float64 of shape \(8, 8, 1\); it must have floats"),
        (np.ones((16, 16, 1)) + 1j, r"has complex128 of shape"),
        (np.asarray([{}], object), "editing.image: "),
        (np.full((16, 16, 1), np.nan), "has 256 numbers that are not finite"),
        (np.full((16, 16, 1), 1e39), "has 256 numbers that are not finite"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(tmp_path, y, message):
    np.save(tmp_path / "y.npy", y, allow_pickle=True)
    experiment = made({"name": "dps"}, task="phase", image=str(tmp_path / "y.npy"))
    with pytest.raises(UserError, match=message):
        edit.read(experiment)


@pytest.mark.parametrize("method", ["ddrm", "red_diff", "pseudo_inverse"])
def test_a_stroke_is_the_origin_of_the_start(tmp_path, monkeypatch, method):
    seen = []

    def restore_by(*args, **offers):
        seen.append(offers["origin"])
        return original(*args, **offers)

    original = editing.restore_by
    monkeypatch.setattr(editing, "restore_by", restore_by)
    paths = {n: str(tmp_path / f"{n}.png") for n in ("image", "mask")}
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(paths["image"])
    Image.fromarray(np.uint8(255 * (rng.random((8, 8)) > 0.5))).save(paths["mask"])
    experiment = made({"name": method}, task="stroke", **paths)
    given = edit.read(experiment)
    params = jax.eval_shape(lambda: initial_params(experiment))
    jax.eval_shape(
        lambda params: jnp.asarray(
            edit.draw_edits(
                experiment, given, params, jr.split(jr.key(0), 2), None
            ).edited
        ),
        params,
    )
    assert seen[0].shape == (2, 8, 8, 1)
    np.testing.assert_array_equal(given.shown(), given.y)
    if method != "pseudo_inverse":
        known = given.measurement
        rule = editing.METHODS[method](
            *(lambda x, s, c=None: x, known, given.y), noise_std=0.0, origin=given.y
        ).sampler
        start = given.y + 2.0 * rng.normal(size=given.y.shape).astype(np.float32)
        begun = np.asarray(rule.begun(jnp.asarray(start)))
        np.testing.assert_array_equal(begun, given.y)
