"""Data in files and from TensorFlow Datasets: what is read, in what order, faults."""

import gc
import io
import itertools
import json
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import launch, prepare_data, train
from score_sde import data
from score_sde.data import DATASETS, TFDS, Format, batch_at, batches, tfds_set
from score_sde.data.prepare import prepare
from score_sde.data.tfds import builder, fit
from score_sde.types import UserError

SHAPE = (6, 4, 3)
FORMAT = Format(SHAPE, 256, 2)
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (45, *SHAPE), dtype=np.uint8)
LABELS = np.arange(45) // 23
HELD_OUT = [19, 39]
"""Of 45 examples, every 20th."""


def png(pixels, **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


def pictures(images=IMAGES, *, folders=True):
    """Name -> content of a PNG for each image, in the order of the images."""
    return {
        f"{f'class{label}/' if folders else ''}{i:03d}.png": png(image)
        for i, (image, label) in enumerate(zip(images, LABELS, strict=False))
    }


def listed(labels=LABELS):
    """EDM's table of labels, of pictures that are in no folder."""
    rows = [[f"{i:03d}.png", int(label)] for i, label in enumerate(labels)]
    return {"dataset.json": json.dumps({"labels": rows}).encode()}


def in_folder(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def in_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def opened(path, format=FORMAT, test_path=""):
    return data.files(format, str(path), str(test_path))


def everything(examples):
    return examples[np.arange(len(examples))]


def sources(tmp_path):
    yield in_folder(tmp_path / "by_folder", pictures())
    yield in_folder(tmp_path / "listed", pictures(folders=False) | listed())
    yield in_zip(tmp_path / "by_folder.zip", pictures())
    yield in_zip(tmp_path / "listed.zip", pictures(folders=False) | listed())
    for save in (np.savez, np.savez_compressed):
        path = tmp_path / f"{save.__name__}.npz"
        save(path, images=IMAGES, labels=LABELS)
        yield path


def test_all_kinds_of_files_give_the_examples_that_are_in_them(tmp_path):
    kept = np.setdiff1d(np.arange(45), HELD_OUT)
    for path in sources(tmp_path):
        dataset = opened(path)
        for examples, rows in ((dataset.train, kept), (dataset.test, HELD_OUT)):
            found = everything(examples)
            np.testing.assert_array_equal(found["values"], IMAGES[rows])
            np.testing.assert_array_equal(found["label"], LABELS[rows])
            assert found["label"].dtype == np.int32
        both = opened(path, test_path=path)
        for split in (both.train, both.test):
            np.testing.assert_array_equal(everything(split)["values"], IMAGES)
        unlabelled = opened(path, FORMAT._replace(num_classes=0))
        assert everything(unlabelled.test).keys() == {"values"}


def test_jpeg_pictures_are_read(tmp_path):
    smooth = np.broadcast_to(np.linspace(0, 255, 6)[:, None, None], SHAPE)
    stream = io.BytesIO()
    Image.fromarray(smooth.astype(np.uint8)).save(stream, "JPEG", quality=95)
    in_folder(tmp_path, {f"{i}.JPG": stream.getvalue() for i in range(20)})
    found = opened(tmp_path, Format(SHAPE, 256)).test[np.arange(1)]["values"]
    # At quality 95 the steps of the quantisation of JPEG are below 10 levels.
    assert np.abs(found[0] - smooth).max() < 10


def test_latents_are_floats_in_an_npz_file(tmp_path):
    latents = RANDOM.normal(size=(40, 2, 2, 4))
    for dtype in (np.float16, np.float32):
        np.savez(tmp_path / "latents.npz", latents=latents.astype(dtype))
        dataset = opened(tmp_path / "latents.npz", Format((2, 2, 4), None))
        found = everything(dataset.test)["values"]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, latents[[19, 39]].astype(dtype))


def test_a_format_is_known_without_the_data(tmp_path):
    dataset = opened(tmp_path / "nothing.zip")
    assert (dataset.shape, dataset.num_levels, dataset.num_classes) == FORMAT
    with pytest.raises(UserError, match="there is no .*nothing.zip; the data should"):
        dataset.split("train")


def broken(**changes):
    """Twenty pictures, of which one, or a file more, is as given."""
    return dict(list(pictures(folders=False).items())[:20]) | {
        name.replace("__", "."): content for name, content in changes.items()
    }


GOOD, PLAIN = png(IMAGES[0]), Format(SHAPE, 256)
EXPECTED = r"expected uint8 below 256 of shape \(6, 4, 3\)"
FAULTS = [
    (broken(**{"003__png": GOOD[:60]}), r"003.png is no picture, or a broken one.*"),
    (broken(**{"003__png": b""}), r"003.png is no picture.*"),
    (broken(**{"003__png": GOOD[:-30] + b"x" * 30}), r"003.png is no picture.*"),
    (
        broken(**{"003__png": png(IMAGES[0].transpose(1, 0, 2))}),
        r"003.png is 6 x 4 pixels, RGB; ",
    ),
    (broken(**{"003__png": png(IMAGES[0, ..., 0])}), r"003.png is 4 x 6 pixels, L; "),
    (
        broken(**{"003__png": png(np.concatenate([IMAGES[0], IMAGES[0, ..., :1]], 2))}),
        r"003.png is 4 x 6 pixels, RGBA; ",
    ),
    (
        broken(**{"003__png": png(IMAGES[0, ..., 0].astype(np.uint16))}),
        r"003.png is 4 x 6 pixels, I;16; ",
    ),
]


@pytest.mark.parametrize("pack", [in_folder, in_zip])
def test_a_broken_picture_is_named(pack, tmp_path):
    for number, (files, message) in enumerate(FAULTS):
        dataset = opened(pack(tmp_path / f"{number}.zip", files), PLAIN)
        assert len(dataset.train[np.arange(3)]["values"]) == 3  # the others are good
        with pytest.raises(UserError, match=message + EXPECTED) as error:
            everything(dataset.train)
        assert "\n" not in str(error.value)


def test_the_first_example_is_read_at_once(tmp_path):
    files = broken(**{"000__png": GOOD[:60]})
    with pytest.raises(UserError, match=r"000.png is no picture"):
        opened(in_zip(tmp_path / "a.zip", files), PLAIN).split("train")


def test_training_on_broken_data_ends_before_it_begins(tmp_path):
    path = in_zip(tmp_path / "a.zip", broken(**{"000__png": b""}))
    words = [
        "--config=configs/patches.py",
        f"--workdir={tmp_path / 'run'}",
        "--config.data.name=files",
        f"--config.data.path={path}",
    ]
    command = launch.parse("", [*words, "--config.data.shape=(8,4,3)"])
    with pytest.raises(UserError, match="000.png is no picture"):
        train.main(command)
    assert not (tmp_path / "run").exists()


def test_values_that_are_no_levels_are_named(tmp_path):
    files = {f"{i}.png": png(np.full(SHAPE, 15 + (i == 7), np.uint8)) for i in range(9)}
    dataset = opened(in_zip(tmp_path / "a.zip", files), Format(SHAPE, 16))
    with pytest.raises(UserError, match=r"7.png has 16 at \(0, 0, 0\); expected uint"):
        everything(dataset.train)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no pictures"),
        ({"a.txt": b"words"}, r"has no pictures \(.png, .jpg, .jpeg, .webp"),
        ({"../outside.png": GOOD}, r"its file '../outside.png' is outside of it"),
        ({"/outside.png": GOOD}, r"its file '/outside.png' is outside of it"),
        (pictures(folders=False), "has 0 folders and no dataset.json; expected a fol"),
        ({"a/1.png": GOOD}, "has 1 folders .* for each of 2 classes"),
        (
            pictures(folders=False) | listed(LABELS[:2]),
            r"002.png has the label None; expected .* labels below 2",
        ),
        (
            pictures(folders=False) | listed(LABELS + 1),
            r"023.png has the label 2; expected .* labels below 2",
        ),
        (
            pictures(folders=False) | listed(-1 - LABELS),
            r"000.png has the label -1; expected .* labels below 2",
        ),
        ({"0.png": GOOD, "dataset.json": b"{"}, r"dataset.json must be {\"labels\":"),
        ({"0.png": GOOD, "dataset.json": b"[]"}, r"dataset.json must be {\"labels\":"),
        (
            {"0.png": GOOD, "dataset.json": b'{"labels": [["0.png", [0, 1]]]}'},
            r"gives 0.png \[0, 1\], no integer",
        ),
    ],
)
def test_what_is_wrong_with_an_archive_is_said(files, message, tmp_path):
    dataset = opened(in_zip(tmp_path / "a.zip", files))
    with pytest.raises(UserError, match=message):
        everything(dataset.train)


def test_an_archive_that_is_cut_short_or_altered_is_refused(tmp_path):
    path = in_zip(tmp_path / "a.zip", pictures())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is no folder, .zip or .npz file, or a broken"):
        opened(path).split("train")
    altered = bytearray(whole)
    altered[len(whole) // 3] ^= 1  # in a picture's content, as its checksum tells
    path.write_bytes(altered)
    with pytest.raises(UserError, match=r"png can't be read: Bad CRC-32"):
        everything(opened(path, test_path=path).train)


LATENTS = np.zeros((40, *SHAPE), np.float32)
NAN = LATENTS.copy()
NAN[25, 1, 2, 0] = np.nan


@pytest.mark.parametrize(
    ("arrays", "format", "message"),
    [
        ({"x": IMAGES}, PLAIN, r"has no array 'images', but \['x'\]; expected uint8"),
        ({"images": IMAGES}, FORMAT, r"has no array 'labels', but \['images'\]"),
        ({"images": IMAGES[..., :2]}, PLAIN, r"images\[0\] is uint8 of shape \(6, 4, "),
        ({"images": IMAGES[0]}, PLAIN, r"images\[0\] is uint8 of shape \(4, 3\); expe"),
        ({"images": np.zeros(())}, PLAIN, r"images\[0\] is float64 of shape \(\); exp"),
        ({"images": LATENTS}, PLAIN, r"images\[0\] is float32 of shape \(6, 4, 3\); e"),
        ({"images": IMAGES.astype(int)}, PLAIN, r"images\[0\] is int64 of shape"),
        ({"images": IMAGES[:0]}, PLAIN, r"the train split has no examples"),
        ({"images": np.array([None])}, PLAIN, r"images is no array, or a broken one"),
        (
            {"latents": NAN},
            Format(SHAPE, None),
            r"latents\[25\] has nan at \(1, 2, 0\)",
        ),
        (
            {"images": IMAGES},
            Format(SHAPE, 128),
            r"images\[0\] has \d+ at \(.*\); expe",
        ),
        (
            {"images": IMAGES, "labels": LABELS * 2},
            FORMAT,
            r"images\[23\] has the label 2; expected .* labels below 2",
        ),
        (
            {"images": IMAGES, "labels": LABELS[:9]},
            FORMAT,
            r"labels are int64 of shape \(9,\); expected 45 integers below 2",
        ),
        (
            {"images": IMAGES, "labels": LABELS * 1.0},
            FORMAT,
            r"labels are float64 of shape \(45,\); expected 45 integers below 2",
        ),
    ],
)
def test_what_is_wrong_with_arrays_is_said(arrays, format, message, tmp_path):
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        with pytest.raises(UserError, match=message):
            everything(opened(tmp_path / "a.npz", format).train)


@pytest.mark.parametrize("num_shards", [1, 2, 3, 8])
def test_hosts_share_the_batch_of_a_step(num_shards):
    digits = DATASETS["digits"]()
    options = dict(seed=3, batch_size=100)
    hosts = [
        batches(digits, step=13, shard=i, num_shards=num_shards, **options)
        for i in range(num_shards)
    ]
    for step in (13, 14, 15):  # over the end of an epoch
        whole = batch_at(digits, step=step, **options)
        parts = [next(host) for host in hosts]
        for name, rows in whole.items():
            joined = np.concatenate([part[name] for part in parts])
            np.testing.assert_array_equal(joined, rows)


@pytest.fixture
def workers():
    """What ended processes leave is collected: in an import of TFDS it can't be."""
    pytest.importorskip("grain")
    yield
    gc.collect()


@pytest.mark.usefixtures("workers")
def test_workers_read_the_same_batches_from_any_step(tmp_path):
    dataset = opened(in_zip(tmp_path / "a.zip", pictures()))
    options = dict(seed=1, batch_size=10)
    read = batches(dataset, step=5, workers=2, shard=1, num_shards=2, **options)
    for step in range(5, 12):
        batch, whole = next(read), batch_at(dataset, step=step, **options)
        for name, rows in whole.items():
            np.testing.assert_array_equal(batch[name], rows[5:])
    read.close()


@pytest.mark.usefixtures("workers")
def test_a_worker_names_the_broken_file(tmp_path):
    files = broken(**{"003__png": GOOD[:60]})
    dataset = opened(in_zip(tmp_path / "a.zip", files), PLAIN)
    read = batches(dataset, seed=0, step=0, batch_size=19, workers=1)
    with pytest.raises(UserError, match=r"003.png is no picture.*" + EXPECTED):
        next(read)


PROGRAM = """
import multiprocessing, sys, time
from score_sde import data
dataset = data.files(data.Format((6, 4, 3), 256), sys.argv[1], sys.argv[1])
read = data.batches(dataset, seed=0, step=0, batch_size=4, workers=2)
next(read)
print(*(process.pid for process in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""


def is_running(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_do_not_outlive_a_program_that_is_killed(tmp_path):
    pytest.importorskip("grain")
    path = in_zip(tmp_path / "a.zip", pictures())
    command = [sys.executable, "-c", PROGRAM, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        pids = program.stdout.readline().split()
        assert len(pids) == 2
        assert all(map(is_running, pids))
        program.kill()
    deadline = time.monotonic() + 30
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, pids))


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match="batch_size is 1438; digits has 1437 training"):
        batches(DATASETS["digits"](), seed=0, step=0, batch_size=1438)


NAMES = [
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
]
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"


def cifar_archive(path, per_file=20):
    """An archive laid out like CIFAR-10's; {split: [(label, image), ...]}."""
    examples = {"train": [], "test": []}
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:

        def add(name, content):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

        add("batches.meta.txt", ("\n".join(NAMES) + "\n\n").encode())
        for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
            records = b""
            for _ in range(per_file):
                label = int(RANDOM.integers(10))
                planes = RANDOM.integers(0, 256, (3, 32, 32), dtype=np.uint8)
                image = planes.transpose(1, 2, 0)
                examples["test" if "test" in name else "train"].append((label, image))
                records += bytes([label]) + planes.tobytes()
            add(f"{name}.bin", records)
    return examples


@pytest.fixture
def archive(tmp_path):
    """(folder for TFDS, what is in CIFAR-10's archive there)."""
    pytest.importorskip("tensorflow_datasets")
    path = tmp_path / "downloads" / "manual" / "cifar-10-binary.tar.gz"
    return tmp_path, cifar_archive(path)


def test_cifar10_is_prepared_from_its_archive_and_read(archive, monkeypatch):
    folder, examples = archive
    dataset = tfds_set("cifar10", (1,), str(folder))
    assert (dataset.shape, dataset.num_classes) == ((32, 32, 3), 10)
    with pytest.raises(UserError, match="prepare it by score-sde prepare-data"):
        dataset.split("train")
    with pytest.raises(UserError, match="wrong checksum"):  # not the real archive
        prepare("cifar10", str(folder))

    from etils import epath
    from tensorflow_datasets.core.download import checksums

    path = folder / "downloads" / "manual" / "cifar-10-binary.tar.gz"
    info = checksums.compute_url_info(epath.Path(path))
    made = builder("cifar10", str(folder))
    monkeypatch.setitem(made.url_infos, URL, info)
    prepare("cifar10", str(folder))
    prepare("cifar10", str(folder))  # once more does nothing
    for split, rows in examples.items():
        found = everything(dataset.split(split))
        pairs = zip(found["label"].tolist(), found["values"], strict=True)
        # TFDS keeps the examples in an order of its own.
        assert sorted((n, a.tobytes()) for n, a in pairs) == sorted(
            (n, a.tobytes()) for n, a in rows
        )
    known = data.identity(dataset)
    assert known["counts"] == {"train": 100, "test": 20}
    assert data.identity(tfds_set("cifar10", (1,), str(folder))) == known
    read = batches(dataset, seed=0, step=2, batch_size=8)
    expected = batch_at(dataset, seed=0, step=2, batch_size=8)
    np.testing.assert_array_equal(next(read)["values"], expected["values"])


def test_what_needs_tensorflow_to_prepare_says_so(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError, match="manual does not exist or is empty"):
        prepare("celeb_a_hq/256", str(tmp_path))
    in_folder(tmp_path / "downloads" / "manual", {"data256x256.tar": b""})
    try:
        import tensorflow  # noqa: F401
    except ImportError:
        with pytest.raises(
            UserError, match="without TensorFlow, which reading it does"
        ):
            prepare("celeb_a_hq/256", str(tmp_path))


@pytest.mark.parametrize("name", TFDS)
def test_the_declared_formats_are_those_of_tfds(name, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    known, features = TFDS[name], builder(name, str(tmp_path)).info.features
    assert known.num_classes == (
        features["label"].num_classes if "label" in features else 0
    )
    shape = features["image"].shape
    if known.shape is None:  # of any size, or, of celeb_a, one that is cut
        assert None in shape or known.cut
    else:
        # Where TFDS leaves the size open, its name tells it.
        told = int(name.split("/")[1].split("x")[0]) if "/" in name else 0
        assert known.shape == tuple(n or told for n in shape)


def test_images_of_many_sizes_are_cut_and_resized():
    image = RANDOM.integers(0, 256, (6, 10, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fit(image, (6, 6, 3)), image[:, 2:8])
    np.testing.assert_array_equal(fit(image, (4, 4, 3), cut=4), image[1:5, 3:7])
    # A ramp stays a ramp: each of 8 pixels is the middle of 4, away from the edges.
    ramp = np.broadcast_to(5 * np.arange(32)[None, :, None], (32, 32, 3))
    small = fit(ramp.astype(np.uint8), (8, 8, 3))[:, 2:6]
    middles = 5 * (4 * np.arange(8) + 1.5)[None, 2:6, None]
    assert np.abs(small - middles).max() <= 0.5 + 1e-9  # rounding alone


def test_preparing_says_what_was_found(tmp_path, capsys):
    path = in_zip(tmp_path / "a.zip", pictures())
    words = [
        "--config=digits:label",
        f"--workdir={tmp_path / 'found'}",
        "--config.data.name=files",
        f"--config.data.path={path}",
        "--config.data.shape=(6,4,3)",
        "--config.data.num_classes=2",
    ]
    prepare_data.main(launch.parse("", words))
    out = capsys.readouterr().out
    assert "uint8 below 256 of shape (6, 4, 3), labels below 2" in out
    assert "43 examples" in out
    assert "2 classes of 21 to 22" in out
    found = json.loads((tmp_path / "found" / "data.json").read_text())
    kept = np.setdiff1d(np.arange(45), HELD_OUT)
    x = (2.0 * IMAGES[kept] + 1) / 256 - 1
    assert found["train"]["labels"] == np.bincount(LABELS[kept]).tolist()
    # Sums in float64 of values in float32.
    assert found["train"]["mean"] == pytest.approx(x.mean(), abs=1e-7)
    assert found["train"]["std"] == pytest.approx(x.std(), abs=1e-7)
    assert (tmp_path / "found" / "data.png").exists()


def test_unknown_sources_are_answered_with_the_choices():
    assert not set(TFDS) & set(DATASETS)
    for first, second in itertools.combinations((DATASETS, TFDS), 2):
        assert {data.FILES, data.ABSENT}.isdisjoint({*first, *second})
