"""The identity of data: what changes it, what does not, when it is computed anew."""

import importlib
import json
import os
import time

import numpy as np
import pytest
from test_data_sources import IMAGES, LABELS, in_folder, in_zip, listed, pictures, png

from score_sde import data
from score_sde.data import DATASETS, Dataset, Format, InMemory, identity
from score_sde.types import UserError

FORMAT = Format((6, 4, 3), 256, 2)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of its own, which keeps also what was written just now."""
    module = importlib.import_module("score_sde.data.identity")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "SETTLED_NS", 0)
    return module


def in_memory(images=IMAGES, labels=LABELS, format=FORMAT):
    splits = {"train": slice(None, -5), "test": slice(-5, None)}
    return Dataset(
        "mine",
        *format,
        lambda split: InMemory(images[splits[split]], labels[splits[split]]),
    )


def changed(array, *index, to):
    array = array.copy()
    array[index] = to
    return array


def swapped(array):
    order = np.arange(len(array))
    order[[3, 30]] = [30, 3]
    return array[order]


def test_the_digest_tells_pixels_labels_order_split_and_format():
    found = [
        identity(dataset)["digest"]
        for dataset in (
            in_memory(),
            in_memory(changed(IMAGES, 2, 1, 1, 0, to=IMAGES[2, 1, 1, 0] ^ 1)),
            in_memory(changed(IMAGES, 44, 1, 1, 0, to=IMAGES[44, 1, 1, 0] ^ 1)),
            in_memory(labels=changed(LABELS, 3, to=1)),
            in_memory(swapped(IMAGES)),
            in_memory(swapped(IMAGES), swapped(LABELS)),
            in_memory(IMAGES.transpose(0, 2, 1, 3)),
            in_memory(IMAGES.astype(np.float32)),
            in_memory(IMAGES[:-1], LABELS[:-1]),
        )
    ]
    assert len(set(found)) == len(found)


def test_an_identity_is_json_with_format_and_counts():
    found = identity(in_memory())
    assert json.loads(json.dumps(found)) == found
    assert found["counts"] == {"train": 40, "test": 5}
    assert found["format"]["shape"] == [6, 4, 3]
    assert found["format"]["num_classes"] == 2


def test_labels_are_the_same_however_wide_they_are():
    for kind in (np.uint8, np.int32, np.int64, ">i4"):
        assert identity(in_memory(labels=LABELS.astype(kind))) == identity(in_memory())


def test_floats_are_the_same_in_any_order_of_bytes():
    x = np.random.default_rng(0).normal(size=(45, 3)).astype(np.float32)
    both = [in_memory(a, format=Format((3,), None, 2)) for a in (x, x.astype(">f4"))]
    assert identity(both[0]) == identity(both[1])


@pytest.mark.parametrize("name", DATASETS)
def test_data_that_come_with_the_library_have_one(name):
    assert identity(DATASETS[name]()) == identity(DATASETS[name]())


def test_it_does_not_depend_on_the_blocks_that_are_read(cache, monkeypatch):
    before = identity(in_memory())
    monkeypatch.setattr(cache, "BLOCK", 7)
    assert identity(in_memory()) == before


def of(path, format=FORMAT, test_path=""):
    return identity(data.files(format, str(path), str(test_path)))


def test_the_same_content_elsewhere_is_the_same(tmp_path):
    for name in ("a.npz", "deep/b.npz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.savez(tmp_path / name, images=IMAGES, labels=LABELS)
    np.savez_compressed(tmp_path / "c.npz", images=IMAGES, labels=LABELS, notes=[1])
    npz = [of(tmp_path / name) for name in ("a.npz", "deep/b.npz", "c.npz")]
    assert npz[0] == npz[1] == npz[2]
    files = [
        of(in_folder(tmp_path / "folder", pictures())),
        of(in_zip(tmp_path / "a.zip", pictures())),
        of(in_zip(tmp_path / "b.zip", {f"x/{k}": v for k, v in pictures().items()})),
        of(in_zip(tmp_path / "c.zip", pictures(folders=False) | listed())),
    ]
    assert all(found == files[0] for found in files)
    assert of(tmp_path / "a.zip", test_path=tmp_path / "a.zip") != files[0]


def test_arrays_in_a_file_are_those_in_memory(tmp_path):
    np.savez(tmp_path / "train.npz", images=IMAGES[:-5], labels=LABELS[:-5])
    np.savez(tmp_path / "test.npz", images=IMAGES[-5:], labels=LABELS[-5:])
    found = of(tmp_path / "train.npz", test_path=tmp_path / "test.npz")
    assert found == identity(in_memory())


@pytest.fixture
def count(cache, monkeypatch):
    """How often contents were read."""
    calls = []
    real = cache.identity_of_contents

    def counted(dataset):
        calls.append(dataset)
        return real(dataset)

    monkeypatch.setattr(cache, "identity_of_contents", counted)
    return calls


def test_files_are_read_once_and_again_when_they_are_touched(tmp_path, count):
    path = tmp_path / "a.npz"
    np.savez(path, images=IMAGES, labels=LABELS)
    first = of(path)
    assert of(path) == first
    assert len(count) == 1
    os.utime(path, (1, 1))
    assert of(path) == first  # no change
    assert len(count) == 2
    assert of(path, FORMAT._replace(num_classes=0)) != first
    link = tmp_path / "link.npz"
    link.symlink_to(path)
    assert of(link) == first
    assert len(count) == 3


def test_a_change_that_hides_its_time_is_noticed(tmp_path, count):
    """Same size and time of modification, or an older one: as rsync and cp -p do."""
    path = tmp_path / "a.npz"
    np.savez(path, images=IMAGES, labels=LABELS)
    size, first, status = path.stat().st_size, of(path), path.stat()
    seen = {first["digest"]}
    for number, mtime in enumerate((status.st_mtime_ns - 10**12, status.st_mtime_ns)):
        images = changed(IMAGES, number, 0, 0, 0, to=IMAGES[number, 0, 0, 0] ^ 1)
        np.savez(path, images=images, labels=LABELS)
        assert path.stat().st_size == size
        os.utime(path, ns=(mtime, mtime))
        seen.add(of(path)["digest"])
    assert len(seen) == len(count) == 3


def test_one_picture_of_a_folder_is_noticed(tmp_path, count):
    folder = in_folder(tmp_path / "folder", pictures())
    first = of(folder)
    place = folder / "class0" / "003.png"
    before = place.read_bytes()
    place.write_bytes(png(IMAGES[4]))
    second = of(folder)
    (folder / "class1" / "099.png").write_bytes(before)
    third = of(folder)
    assert len({first["digest"], second["digest"], third["digest"]}) == 3
    assert third["counts"]["train"] == 44
    place.write_bytes(before)
    (folder / "class1" / "099.png").unlink()
    (folder / "notes.txt").write_text("no picture")
    assert of(folder) == first
    assert len(count) == 4


def test_what_was_written_just_now_is_not_kept(tmp_path, cache, count, monkeypatch):
    monkeypatch.setattr(cache, "SETTLED_NS", 10**12)
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    assert of(tmp_path / "a.npz") == of(tmp_path / "a.npz")
    assert len(count) == 2
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stamps": 1}'])
def test_a_damaged_cache_is_passed_over(content, tmp_path, count):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    first = of(tmp_path / "a.npz")
    (kept,) = (tmp_path / "cache" / "score_sde" / "data").iterdir()
    kept.write_text(content)
    assert of(tmp_path / "a.npz") == first
    assert len(count) == 2
    assert json.loads(kept.read_text())["identity"] == first


def test_a_cache_that_can_not_be_written_is_done_without(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert of(tmp_path / "a.npz")["counts"]["train"] == 43


def test_data_that_are_not_there_or_broken_have_none(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*nothing.zip"):
        of(tmp_path / "nothing.zip")
    files = pictures() | {"class0/003.png": b""}
    path = in_zip(tmp_path / "a.zip", files)
    assert of(path)["digest"]  # a file is known by its bytes, pictures or none
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 3] ^= 1
    path.write_bytes(whole)
    with pytest.raises(UserError, match="can't be read: Bad CRC-32"):
        of(path)


def test_sixty_thousand_images_take_less_than_a_second(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60_000, 28, 28, 1), np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    format = Format((28, 28, 1), 256)
    begun = time.process_time()  # of this program alone
    first = of(tmp_path / "a.npz", format)
    assert time.process_time() - begun < 1
    begun = time.process_time()
    assert of(tmp_path / "a.npz", format) == first
    assert time.process_time() - begun < 0.05


def test_tfds_is_known_by_what_it_recorded(tmp_path, monkeypatch):
    """Its version, digests and sizes; no example is read."""
    pytest.importorskip("tensorflow_datasets")
    from score_sde.data import tfds

    class Split:
        def __init__(self, count):
            self.num_examples, self.num_bytes, self.shard_lengths = count, 9, [count]

    class Url:
        checksum = "0f"

    class Made:
        data_path = tmp_path / "mnist"
        url_infos = {"somewhere": Url}

        class info:  # noqa: N801
            full_name = "mnist/3.0.1"
            splits = {"train": Split(7), "test": Split(3)}

    Made.data_path.mkdir()
    (Made.data_path / "train.array_record").write_bytes(b"12345")
    monkeypatch.setattr(tfds, "builder", lambda name, folder: Made)

    def now():
        return identity(tfds.tfds_set("mnist", (), str(tmp_path)))

    first = now()
    assert first["counts"] == {"train": 7, "test": 3}
    assert now() == first
    (Made.data_path / "train.array_record").write_bytes(b"123456")
    second = now()
    Made.info.full_name = "mnist/3.0.2"
    third = now()
    Url.checksum = "10"
    found = [first, second, third, now()]
    assert len({one["digest"] for one in found}) == 4
