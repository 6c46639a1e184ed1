"""PSNR and SSIM of pairs of images: closed forms, and the definition place by place."""

import math

import numpy as np
import pytest

from score_sde.evaluation import lpips, psnr, ssim
from score_sde.run import pairs


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (4, 16, 13, 3), dtype=np.uint8)
    noise = rng.integers(-30, 31, x.shape)
    return x, np.clip(x.astype(int) + noise, 0, 255).astype(np.uint8)


def test_psnr_of_a_constant_error():
    x = np.full((3, 4, 4, 1), 100, np.uint8)
    y = x + np.array([1, 2, 5], np.uint8)[:, None, None, None]
    each = [20 * math.log10(255 / e) for e in (1, 2, 5)]
    estimate = psnr(x, y)
    assert estimate.value == pytest.approx(np.mean(each), rel=1e-13)
    assert estimate.parts["standard_error"] == pytest.approx(
        np.std(each, ddof=1) / 3**0.5
    )
    assert psnr(y, x).value == estimate.value
    assert psnr(x, x).value == math.inf


def test_scaled_floats_have_the_psnr_and_ssim_of_their_levels(images):
    x, y = images
    scaled = [a / 255 for a in images]
    for metric in (psnr, ssim):
        ours = metric(*scaled, data_range=1.0).value
        assert ours == pytest.approx(metric(x, y).value, rel=1e-10)
    centred = [2 * a - 1 for a in scaled]
    assert psnr(*centred, data_range=2.0).value == pytest.approx(psnr(x, y).value)
    with pytest.raises(ValueError, match="values must be from 0"):
        ssim(*centred, data_range=2.0)


def test_ssim_is_its_definition_at_every_place(images):
    x, y = (a.astype(float) for a in images)
    offsets = np.arange(11) - 5
    taps = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights = (taps / taps.sum())[..., None]
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for i in range(16 - 10):
        for j in range(13 - 10):
            a, b = (s[:, i : i + 11, j : j + 11] for s in (x, y))
            ma, mb = ((weights * s).sum((1, 2), keepdims=True) for s in (a, b))
            va, vb = (
                (weights * (s - m) ** 2).sum((1, 2)) for s, m in ((a, ma), (b, mb))
            )
            cov = (weights * (a - ma) * (b - mb)).sum((1, 2))
            ma, mb = ma[:, 0, 0], mb[:, 0, 0]
            values.append(
                (2 * ma * mb + c1)
                * (2 * cov + c2)
                / ((ma**2 + mb**2 + c1) * (va + vb + c2))
            )
    assert ssim(*images).value == pytest.approx(np.mean(values), rel=1e-11)


def test_ssim_of_flat_and_of_equal_images(images):
    x, _ = images
    assert ssim(x, x).value == 1
    a, b = (np.full((2, 12, 12, 1), v, np.uint8) for v in (50, 100))
    c1 = (0.01 * 255) ** 2
    expected = (2 * 50 * 100 + c1) / (50**2 + 100**2 + c1)
    assert ssim(a, b).value == pytest.approx(expected, rel=1e-9)


def test_intervals_are_over_images(images):
    for metric in (psnr, ssim):
        estimate = metric(*images)
        assert estimate.low < estimate.value < estimate.high
        assert estimate.counts["num_pairs"] == 4
        one = metric(*(a[:1] for a in images))
        assert math.isnan(one.low)
    embed = lambda x: x.mean((1, 2))
    assert math.isnan(lpips(*(a[:1] for a in images), embed=embed).low)
    assert math.isnan(pairs.mean(np.array([0.5]))["low"])


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x[0], y[0]), "x has shape"),
        (lambda x, y: (x, y[:3]), "y has shape"),
        (lambda x, y: (x, y / 255), "y holds float64; it must hold uint8"),
        (lambda x, y: (x / 255, y / 255), "data_range is None"),
        (lambda x, y: (x.astype(int), y), "x holds int64"),
        (lambda x, y: (x / 255, y / np.float64("nan")), "y holds NaN"),
        (lambda x, y: (x[:0], y[:0]), "x has shape"),
    ],
)
def test_what_are_no_pairs_of_images_is_refused(metric, change, words, images):
    with pytest.raises(ValueError, match=words):
        metric(*change(*images))


def test_images_smaller_than_the_window_are_refused(images):
    small = [a[:, :8, :8] for a in images]
    with pytest.raises(ValueError, match="window is 11; it must be at most .* 8"):
        ssim(*small)
    assert ssim(*small, window=7).value < 1
    with pytest.raises(ValueError, match="odd"):
        ssim(*images, window=8)
