"""Images in idx files: what is read, by which of two ways, and what is refused."""

import gzip
import struct
from urllib.parse import urljoin

import numpy as np
import pytest

from experiments import launch, prepare_data
from score_sde.data import SOURCES, identity, tfds_set
from score_sde.data.idx import read_idx
from score_sde.data.prepare import prepare
from score_sde.data.tfds import builder
from score_sde.types import UserError

RANDOM = np.random.default_rng(0)
SIZES = {"train": 24, "t10k": 10}
IMAGES = {k: RANDOM.integers(0, 256, (n, 6, 4), np.uint8) for k, n in SIZES.items()}
LABELS = {k: (np.arange(n) % 3).astype(np.uint8) for k, n in SIZES.items()}


def idx(array):
    """The content of an idx file."""
    header = struct.pack(">HBB", 0, 8, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def contents(images, labels):
    """Name -> content of the four files."""
    found = {f"{k}-images-idx3-ubyte": idx(images[k]) for k in images}
    return found | {f"{k}-labels-idx1-ubyte": idx(labels[k]) for k in labels}


def written(folder, files=None, *, packed=False, rename=lambda name: name):
    folder.mkdir(exist_ok=True)
    for name, content in (files or contents(IMAGES, LABELS)).items():
        path = folder / (rename(name) + (".gz" if packed else ""))
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


def opened(folder, **options):
    return SOURCES["idx"](folder=str(folder), **options)


def check(dataset):
    assert (dataset.shape, dataset.num_levels) == ((6, 4, 1), 256)
    assert dataset.num_classes == 3
    for split, name in (("train", "train"), ("test", "t10k")):
        rows = dataset.split(split)[np.arange(SIZES[name])]
        np.testing.assert_array_equal(rows["values"][..., 0], IMAGES[name])
        np.testing.assert_array_equal(rows["label"], LABELS[name])


RENAMED = {
    "as they come": lambda name: name,
    "a full stop": lambda name: name.replace("-idx", ".idx"),
    "test for t10k": lambda name: name.replace("t10k", "test"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("names", RENAMED)
def test_idx_files_give_what_is_in_them(tmp_path, packed, names):
    folder = written(tmp_path, packed=packed, rename=RENAMED[names])
    dataset = opened(folder)
    check(dataset)
    assert dataset.found == {"shape": (6, 4, 1), "num_classes": 3}
    known = identity(dataset)
    assert known["counts"] == {"train": 24, "test": 10}
    assert known == identity(opened(folder, **dataset.found))


def test_letters_of_emnist_are_turned_and_counted_from_one(tmp_path):
    turned = {k: v.swapaxes(1, 2) for k, v in IMAGES.items()}
    counted = {k: v + 1 for k, v in LABELS.items()}
    folder = written(
        tmp_path, contents(turned, counted), rename=lambda name: f"emnist-l-{name}"
    )
    check(opened(folder, prefix="emnist-l-", transposed=True, first_label=1))
    unread = opened(folder, prefix="emnist-l-", transposed=True, num_classes=0)
    assert unread.train[np.arange(1)].keys() == {"values"}
    with pytest.raises(UserError, match="has the label 3 at 2; expected 0 to 2"):
        _ = opened(folder, prefix="emnist-l-", num_classes=3).train


def changed(name, content):
    return contents(IMAGES, LABELS) | {name: content}


TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
WHOLE = idx(IMAGES["train"])
REFUSED = {
    "cut short": (changed(TRAIN_IMAGES, WHOLE[:-1]), "has 575 values; its header says"),
    "no header": (changed(TRAIN_IMAGES, b"ab"), "is no idx file, or a broken one"),
    "half a gzip": (
        changed(TRAIN_IMAGES, gzip.compress(WHOLE)[:-9]),
        "is no idx file, or a broken one",
    ),
    "floats": (
        changed(TRAIN_IMAGES, b"\0\0\x0d\x03" + WHOLE[4:]),
        "begins with 00000d03; an idx file of unsigned bytes begins with 000008",
    ),
    "too few labels": (
        changed(TRAIN_LABELS, idx(LABELS["train"][:20])),
        r"has \(20,\) labels of 24 images",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_broken_idx_files_are_refused(tmp_path, fault):
    files, message = REFUSED[fault]
    folder = written(tmp_path, files)
    with pytest.raises(UserError, match=message):
        _ = opened(folder).train


def test_test_images_of_another_size_are_refused(tmp_path):
    small = {**IMAGES, "t10k": IMAGES["t10k"][:, :5]}
    dataset = opened(written(tmp_path, contents(small, LABELS)))
    with pytest.raises(UserError, match=r"images of shape \(5, 4\); expected uint8"):
        _ = dataset.test
    with pytest.raises(UserError, match=r"shape is \(4, 6, 1\); images of .* are \(6"):
        opened(tmp_path, shape=(4, 6, 1))


def test_a_folder_without_idx_files_is_refused_when_it_is_read(tmp_path):
    with pytest.raises(UserError, match="there is no a-train-images-idx3-ubyte"):
        opened(tmp_path, prefix="a-")
    known = opened(tmp_path, shape=(28, 28, 1), num_classes=10)
    with pytest.raises(UserError, match=r"data\.folder and data\.prefix say where"):
        _ = known.test


def test_the_config_reads_the_files_of_its_folder(tmp_path, capsys):
    images = {k: RANDOM.integers(0, 256, (9, 28, 28), np.uint8) for k in SIZES}
    labels = {k: np.arange(9, dtype=np.uint8) for k in SIZES}
    folder = written(tmp_path, contents(images, labels), packed=True)
    words = [
        "--config=fashion_mnist",
        f"--workdir={tmp_path / 'found'}",
        f"--config.data.folder={folder}",
    ]
    prepare_data.main(launch.parse("", words))
    assert "9 examples" in capsys.readouterr().out


def test_fashion_mnist_is_prepared_without_tensorflow(tmp_path, monkeypatch):
    """From the files that TFDS downloads, which are named by their digests."""
    pytest.importorskip("tensorflow_datasets")
    from etils import epath
    from tensorflow_datasets.core.download import checksums

    images = {k: RANDOM.integers(0, 256, (9, 28, 28), np.uint8) for k in SIZES}
    labels = {k: np.arange(9, dtype=np.uint8) for k in SIZES}
    downloads = tmp_path / "downloads" / "manual"
    downloads.mkdir(parents=True)
    written(downloads, contents(images, labels), packed=True)
    with pytest.raises(UserError, match="wrong checksum"):  # not the real files
        prepare("fashion_mnist", str(tmp_path))
    made = builder("fashion_mnist", str(tmp_path))
    for path in downloads.iterdir():
        info = checksums.compute_url_info(epath.Path(path))
        monkeypatch.setitem(made.url_infos, urljoin(made.URL, path.name), info)
    prepare("fashion_mnist", str(tmp_path))
    dataset = tfds_set("fashion_mnist", (), str(tmp_path))
    for split, name in (("train", "train"), ("test", "t10k")):
        rows = dataset.split(split)[np.arange(9)]
        order = np.argsort(rows["label"])  # TFDS keeps an order of its own
        np.testing.assert_array_equal(rows["values"][order][..., 0], images[name])


def test_a_header_says_what_an_array_has(tmp_path):
    path = tmp_path / "a"
    for shape in ((), (3,), (2, 1, 4), (0, 5)):
        array = RANDOM.integers(0, 256, shape, np.uint8)
        path.write_bytes(idx(array))
        np.testing.assert_array_equal(read_idx(path), array)
