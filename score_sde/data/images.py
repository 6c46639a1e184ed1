"""Real images that need no download: they come with scikit-learn."""

from __future__ import annotations

import numpy as np

from score_sde.data.dataset import Dataset


def digits() -> Dataset:
    """1,797 handwritten digits, 8x8, 17 grey levels, labelled (UCI, E. Alpaydin 1998).

    The split is fixed: the first 360 entries of NumPy's legacy permutation of seed 0
    are the test images, the other 1,437 the training images.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    images = source.images.astype(np.uint8)[..., None]
    labels = source.target.astype(np.int32)
    order = np.random.RandomState(0).permutation(len(images))
    test, train = order[:360], order[360:]
    return Dataset(
        "digits",
        train=images[train],
        test=images[test],
        num_levels=17,
        train_labels=labels[train],
        test_labels=labels[test],
        num_classes=10,
    )


def patches() -> Dataset:
    """32x32 colour patches, 256 levels, of scikit-learn's two photographs.

    Train patches come from the left three quarters of each photograph, every fourth
    pixel; test patches tile the rest, with no pixel in common.
    """
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    width = photographs[0].shape[1] * 3 // 4
    train = [_windows(image[:, :width], stride=4) for image in photographs]
    test = [_windows(image[:, width:], stride=32) for image in photographs]
    return Dataset(
        "patches",
        train=np.concatenate(train),
        test=np.concatenate(test),
        num_levels=256,
    )


def _windows(image: np.ndarray, *, stride: int, size: int = 32) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(image, (size, size), (0, 1))
    windows = windows[::stride, ::stride].transpose(0, 1, 3, 4, 2)
    return windows.reshape(-1, size, size, image.shape[2])
