"""What a model is trained on and guided by: right, or one clear error, whatever comes.

The other half of test_doors: noise levels, dequantisation, sources of data, guidance.
"""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import unless
from generated import LEVELS, few, like, points, smooth
from hypothesis import given
from hypothesis import strategies as st

import score_sde as ss
from score_sde import data, guidance
from score_sde.data import SOURCES, Dataset
from score_sde.dequantisation import DEQUANTISERS, variational
from score_sde.guidance import GUIDANCES, THRESHOLDS
from score_sde.noise_levels import NOISE_LEVELS


def told(x, sigma, cond=None):
    """A cheap denoiser of one class or another."""
    label = (cond or {}).get("label", jnp.full(len(x), -1)).astype(x.dtype)
    return smooth(x, sigma) * (1 + label.reshape(-1, *[1] * (x.ndim - 1)) / 10)


OFFERS = {
    "grid": np.asarray([1e7, 1e6, 80.0, 7.0, 3.0, 1.0, 0.5, 0.002, 1e-6, 0.0]),
    "worse": smooth,
    "perturbed": lambda skip, attention: smooth,
    "classifier": lambda x, sigma, cond: -(x**2).mean(range(1, x.ndim)),
}
OPTIONS = {
    "composed": {"labels": (3,), "weights": (0.5,)},
    "scheduled": {"sigmas": (0.1, 1.0), "weights": (2.0, 3.0)},
}


@pytest.mark.parametrize(
    "name", unless(("plus_plus", "static").__contains__, [*GUIDANCES, *THRESHOLDS])
)
@few
@given(x=points(), sigma=st.sampled_from(LEVELS[:-1]))
def test_guidance(name, x, sigma):
    guide = (GUIDANCES | THRESHOLDS)[name]
    x = jnp.asarray(x)
    if name == "frequency" and x.ndim != 4:
        return  # its bands are those of images
    if name == "dynamic" and x.size == 0:
        return  # no quantile of nothing
    known = {n: OFFERS[n] for n in guidance.models_needed(guide) if n in OFFERS}
    if "sigma_data" in inspect.signature(guide).parameters:
        known["sigma_data"] = 0.5
    guided = guide(told, **known, **OPTIONS.get(name, {}))
    with jax.disable_jit():
        labels = jnp.arange(len(x)) % 10
        out = guided(x, sigma, {"label": labels})
        assert like(out, x)
        if len(x) > 1:
            alone = guided(x[:1], sigma, {"label": labels[:1]})
            rtol = 0.02 if x.dtype.itemsize == 2 else 1e-4
            both = (np.asarray(a[:1], np.float64) for a in (out, alone))
            np.testing.assert_allclose(*both, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", NOISE_LEVELS)
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("stratified", [False, True])
def test_noise_levels(name, batch, stratified):
    make = NOISE_LEVELS[name]
    given = {"sde": ss.EDM(), "sigmas": (0.1, 0.5, 2.0), "image_size": 32}
    parameters = inspect.signature(make).parameters
    levels = make(
        stratified=stratified, **{n: v for n, v in given.items() if n in parameters}
    )
    with jax.numpy_dtype_promotion("standard"):
        sigma = levels.draw(jr.key(1), batch)
    assert sigma.shape == (batch,)
    assert sigma.dtype == jnp.zeros(()).dtype
    for values in (sigma, levels.density(sigma)):
        assert np.isfinite(values).all()
        assert (values > 0).all()
    far = levels.quantile(jnp.asarray([1e-38, 1 - 2.0**-24]))
    assert np.isfinite(far).all()
    assert (far > 0).all()


def saturated(centres, eps):
    """A flow whose sigmoid has rounded to the ends of the bin."""
    return jnp.where(eps > 0, 1.0, 0.0), jnp.zeros(len(eps))


@pytest.mark.parametrize("name", [*DEQUANTISERS, "variational"])
@pytest.mark.parametrize("num_levels", [2, 17, 256])
@pytest.mark.parametrize("shape", [(0, 2), (1, 1), (3, 2, 2, 1)])
def test_dequantisation_stays_in_its_bins(name, num_levels, shape):
    values = (np.arange(np.prod(shape)) * 5 % num_levels).reshape(shape)
    for sigma in (1e-5, 0.05, 100.0):
        if name == "variational":
            make = partial(variational, flow=saturated)
        else:
            make = partial(DEQUANTISERS[name], sigma=sigma)
        for seed in range(3):
            keys = jr.key(seed)
            out = make(keys, values.astype(np.uint8), num_levels=num_levels)
            found = data.to_levels(out.x, num_levels=num_levels)
            np.testing.assert_array_equal(found, values)
            assert out.log_density.shape == shape[:1]
            assert np.isfinite(out.log_density).all()


INDICES = ((), (0,), (3, 1, 1))


def every_source(folder):
    """A data set of each kind that needs no network and no trained run."""
    for name in ("digits", "patches", "rings", "checkerboard", "spirals", "mixture"):
        yield SOURCES[name]()
    of_digits = {"source": {"name": "digits"}}
    yield SOURCES["smaller"](**of_digits)
    for part in ("coarse", "details"):
        yield SOURCES["wavelet"](**of_digits, part=part)
    images = np.arange(24 * 16, dtype=np.uint8).reshape(24, 4, 4, 1)
    np.savez(folder / "images.npz", images=images, labels=np.arange(24) % 3)
    yield SOURCES["files"](path=str(folder / "images.npz"), num_classes=3)
    from PIL import Image

    for i, image in enumerate(images):
        (folder / f"pictures/{i % 3}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / f"pictures/{i % 3}/{i:02}.png")
    yield SOURCES["files"](path=str(folder / "pictures"), num_classes=3)


def test_sources_of_data(tmp_path):
    for dataset in every_source(tmp_path):
        assert isinstance(dataset, Dataset)
        for split in (dataset.train, dataset.test):
            whole = split[np.arange(min(5, len(split)))]
            assert whole["values"].shape[1:] == dataset.stored.shape
            for index in (i for i in INDICES if max(i, default=0) < len(split)):
                for kind in (np.int8, np.uint16, np.int64):
                    rows = split[np.asarray(index, kind)]
                    assert rows.keys() == whole.keys()
                    for entry, values in rows.items():
                        assert values.dtype == whole[entry].dtype
                        expected = whole[entry][np.asarray(index, int)]
                        np.testing.assert_array_equal(values, expected)
            with pytest.raises(IndexError):
                split[np.asarray([len(split)])]
