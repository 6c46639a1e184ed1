"""Real images that need no download: they come with scikit-learn."""

from __future__ import annotations

import numpy as np

from score_sde.data.dataset import Dataset, InMemory


def digits() -> Dataset:
    """Make the data set of 1,797 handwritten digits, 8x8, 17 levels, labelled.

    They are from UCI (E. Alpaydin 1998), and come with scikit-learn.

    The split is fixed: the first 360 entries of NumPy's legacy permutation of seed 0
    are the test images, the other 1,437 the training images.
    """
    return Dataset("digits", (8, 8, 1), 17, 10, _digits)


def patches() -> Dataset:
    """Make the data set of 32x32 colour patches of scikit-learn's two photographs.

    Training patches come from the left three quarters of each photograph, one at every
    fourth pixel; test patches tile the rest, with no pixel in common.
    """
    return Dataset("patches", (32, 32, 3), 256, 0, _patches)


def _digits(split: str) -> InMemory:
    from sklearn.datasets import load_digits

    source = load_digits()
    order = np.random.RandomState(0).permutation(len(source.images))
    rows = order[:360] if split == "test" else order[360:]
    images = source.images.astype(np.uint8)[..., None]
    return InMemory(images[rows], source.target.astype(np.int32)[rows])


def _patches(split: str) -> InMemory:
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    width = photographs[0].shape[1] * 3 // 4
    if split == "test":
        cut = [_windows(image[:, width:], stride=32) for image in photographs]
    else:
        cut = [_windows(image[:, :width], stride=4) for image in photographs]
    return InMemory(np.concatenate(cut))


def _windows(image: np.ndarray, *, stride: int, size: int = 32) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(image, (size, size), (0, 1))
    windows = windows[::stride, ::stride].transpose(0, 1, 3, 4, 2)
    return windows.reshape(-1, size, size, image.shape[2])
