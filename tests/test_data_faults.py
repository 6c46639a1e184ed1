"""Files that are broken, bent or foreign: what is read, what is said, what is kept."""

import io
import itertools
import json
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image
from test_data_sources import IMAGES, everything, in_folder, in_zip, opened, png
from test_training import DEVICES, prepared, same

from experiments import launch, train
from score_sde import data
from score_sde.data import SOURCES, Format, batches, tfds_set
from score_sde.data.listing import listing, say_once
from score_sde.training.checkpoints import Checkpoints
from score_sde.training.compile import compile_train_step
from score_sde.training.loop import train as training_loop
from score_sde.training.settings import Training
from score_sde.types import UserError

PLAIN = Format((6, 4, 3), 256)
COMMAND = "score-sde prepare-data --from="


# A picture that can't be read in the middle of training.


def pixels_loss(key, params, batch, context):
    middle = batch["values"].astype(np.float32).mean((1, 2, 3)) / 255
    return ((params["w"][None] - middle[:, None]) ** 2).sum(1)


def trained(workdir, dataset, num_steps):
    state, step, mesh = prepared(pixels_loss)
    return training_loop(
        state,
        compile_train_step(step, state, DEVICES, mesh),
        lambda first: batches(dataset, seed=0, step=first, batch_size=8),
        settings=Training(
            num_steps=num_steps, log_every=2, sample_every=100, checkpoint_every=100
        ),
        mesh=mesh,
        workdir=workdir,
        evaluate=lambda state: {},
    )


@pytest.mark.usefixtures("standard_promotion")
def test_a_broken_picture_ends_training_with_all_that_was_learned(tmp_path, capsys):
    """And the run goes on from there, as if nothing had been, once it is mended."""
    files = {f"{i:03d}.png": png(image) for i, image in enumerate(IMAGES)}
    whole = opened(in_zip(tmp_path / "whole.zip", files), PLAIN)
    order = data.feeding.indices(43, seed=0, start=0, stop=43)
    names = sorted(set(files) - {"019.png", "039.png"})
    broken = names[order[8 * 4 + 3]]  # in the batch of the fifth step
    place = in_zip(tmp_path / "a.zip", files | {broken: files[broken][:60]})
    for _ in range(2):  # once more says the same, and loses nothing
        with pytest.raises(UserError, match=rf"{broken} is no picture") as error:
            trained(tmp_path / "run", opened(place, PLAIN), 7)
        assert f"{COMMAND}{place}" in str(error.value)
        with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
            assert checkpoints.steps() == [4]
    assert "can't be read; step 4 is saved" in capsys.readouterr().out
    in_zip(place, files)
    found = trained(tmp_path / "run", opened(place, PLAIN), 7)
    assert same(found, trained(tmp_path / "other", whole, 7))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    others = (tmp_path / "other" / "metrics.jsonl").read_text().splitlines()
    assert [(row["step"], row["loss"]) for row in rows] == [
        (row["step"], row["loss"]) for row in map(json.loads, others)
    ]


# Kinds of pictures.


def encoded(pixels, kind, mode=None, **options):
    stream = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(stream, kind, **options)
    return stream.getvalue()


LOSSLESS = {
    "png": {},
    "webp": {"lossless": True},
    "bmp": {},
    "tif": {},
    "tiff": {"compression": "tiff_lzw"},
    "ppm": {},
}
KINDS = {"tif": "TIFF", "tiff": "TIFF", "ppm": "PPM"}


@pytest.mark.parametrize("pack", [in_folder, in_zip])
def test_pictures_of_all_kinds_are_read(pack, tmp_path):
    files = {
        f"{i:02d}.{suffix.upper() if i % 2 else suffix}": encoded(
            IMAGES[i], KINDS.get(suffix, suffix), **options
        )
        for i, (suffix, options) in zip(
            range(24), itertools.cycle(LOSSLESS.items()), strict=False
        )
    }
    path = pack(tmp_path / "a.zip", files)
    found = everything(opened(path, PLAIN, path).train)["values"]
    np.testing.assert_array_equal(found, IMAGES[:24])


def test_exif_turns_are_undone(tmp_path):
    """Against the eight transposes of EXIF 2.3, written out."""
    image = IMAGES[0]
    undone = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.transpose(1, 0, 2),
        6: image.transpose(1, 0, 2)[::-1],
        7: image.transpose(1, 0, 2)[::-1, ::-1],
        8: image.transpose(1, 0, 2)[:, ::-1],
    }
    for kind in ("png", "webp", "tiff"):
        files = {}
        for orientation, stored in undone.items():
            exif = Image.Exif()
            exif[0x0112] = orientation
            options = LOSSLESS.get(kind, {}) | {"exif": exif}
            files[f"{orientation}.{kind}"] = encoded(
                np.ascontiguousarray(stored), kind, **options
            )
        path = in_zip(tmp_path / f"{kind}.zip", files)
        found = everything(opened(path, PLAIN, path).train)["values"]
        np.testing.assert_array_equal(found, np.stack([image] * 8), err_msg=kind)


def test_palettes_and_two_colours_are_looked_up(tmp_path):
    colours = np.asarray([[0, 90, 200], [255, 10, 0]], np.uint8)
    few = colours[IMAGES[:9, ..., 0] % 2]
    files = {}
    for i, indices in enumerate(IMAGES[:9, ..., 0] % 2):
        picture, stream = Image.fromarray(indices).convert("P"), io.BytesIO()
        picture.putpalette(colours.tobytes())
        picture.save(stream, "PNG")
        files[f"{i}.png"] = stream.getvalue()
    path = in_zip(tmp_path / "a.zip", files)
    with zipfile.ZipFile(path) as archive, archive.open("0.png") as file:
        assert Image.open(file).mode == "P"
    found = everything(opened(path, PLAIN, path).train)["values"]
    np.testing.assert_array_equal(found, few)
    ink = 255 * (IMAGES[:9, ..., :1] % 2)
    files = {f"{i}.png": encoded(a[..., 0], "png", "1") for i, a in enumerate(ink)}
    path = in_zip(tmp_path / "b.zip", files)
    found = everything(opened(path, Format((6, 4, 1), 256), path).train)["values"]
    np.testing.assert_array_equal(found, ink)


def frames(kind):
    stream = io.BytesIO()
    first, second = (Image.fromarray(image) for image in IMAGES[:2])
    first.save(stream, kind, save_all=True, append_images=[second])
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded(IMAGES[0], "tiff", "CMYK"), "4 x 6 pixels, CMYK; expected"),
        (encoded(IMAGES[0], "png", "LA"), "4 x 6 pixels, LA; expected"),
        (frames("gif"), "4 x 6 pixels, P, 2 frames; expected"),
        (frames("tiff"), "4 x 6 pixels, RGB, 2 frames; expected"),
        (
            encoded(IMAGES[0], "png", "P", transparency=0),
            "4 x 6 pixels, P with transparency; expected",
        ),
        (encoded(np.zeros((6, 5, 3), np.uint8), "png"), "5 x 6 pixels, RGB; expected"),
        (encoded(np.zeros((6, 4), np.float32), "tiff"), "4 x 6 pixels, F; expected"),
    ],
)
def test_what_would_have_to_be_changed_is_refused(content, message, tmp_path):
    """By one line with the file, and the command that changes it."""
    path = in_zip(tmp_path / "a b.zip", {"0.png": png(IMAGES[0]), "1.png": content})
    with pytest.raises(UserError, match=rf"1.png is {message}") as error:
        everything(opened(path, PLAIN, path).train)
    assert f"{COMMAND}'{path}' --to=OUT.npz" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_small_file_does_not_fill_the_memory(tmp_path):
    stream = io.BytesIO()
    Image.new("L", (30_000, 30_000)).save(stream, "PNG")
    path = in_zip(tmp_path / "a.zip", {"0.png": stream.getvalue()})
    with pytest.raises(UserError, match=r"0.png is no picture.*exceeds limit"):
        opened(path, PLAIN, path).split("train")


# Which files are read.


def test_what_is_left_out_is_counted_and_said_once(tmp_path, capsys):
    say_once.cache_clear()
    files = {f"{i}.png": png(IMAGES[i]) for i in range(3)} | {
        "notes.txt": b"",
        "deep/README.md": b"",
        "deep/more.md": b"",
        "LICENSE": b"",
        ".DS_Store": b"",
    }
    dataset = opened(in_folder(tmp_path / "a", files), PLAIN, tmp_path / "a")
    assert len(dataset.train) == len(dataset.test) == 3
    opened(tmp_path / "a", PLAIN, tmp_path / "a").split("train")
    said = capsys.readouterr().err.splitlines()
    kinds = "(.md, .txt, hidden, no suffix)"
    assert said == [f"{tmp_path / 'a'}: left out: 5 files {kinds}"]


@pytest.mark.parametrize("pack", [in_folder, in_zip])
def test_folders_around_all_and_what_macos_adds_are_passed_over(pack, tmp_path):
    files = {
        "data/set/cat/0.png": png(IMAGES[0]),
        "data/set/dog/0.png": png(IMAGES[1]),
        "__MACOSX/data/set/cat/._0.png": b"resource fork",
        "data/set/dog/._0.png": b"resource fork",
        "data/.DS_Store": b"",
        "data/set/.ipynb_checkpoints/0.png": png(IMAGES[2]),
    }
    path = pack(tmp_path / "a.zip", files)
    found = everything(opened(path, PLAIN._replace(num_classes=2), path).train)
    np.testing.assert_array_equal(found["values"], IMAGES[:2])
    assert found["label"].tolist() == [0, 1]


def test_a_table_inside_of_a_folder_is_found(tmp_path):
    table = json.dumps({"labels": [["00/0.png", 1], ["00/1.png", 0]]}).encode()
    files = {f"set/00/{i}.png": png(IMAGES[i]) for i in range(2)}
    path = in_zip(tmp_path / "a.zip", files | {"set/dataset.json": table})
    found = everything(opened(path, PLAIN._replace(num_classes=2), path).train)
    assert found["label"].tolist() == [1, 0]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    cats = in_folder(tmp_path / "elsewhere" / "cats", {"0.png": png(IMAGES[0])})
    place = in_folder(tmp_path / "set", {"dog/0.png": png(IMAGES[1])})
    (place / "cat").symlink_to(cats)
    (place / "dog" / "around").symlink_to(place)
    (cats / "up").symlink_to(cats.parent)
    (place / "cat2").symlink_to(cats)
    assert listing(place).names == ["cat/0.png", "cat2/0.png", "dog/0.png"]
    found = everything(opened(place, PLAIN._replace(num_classes=3), place).train)
    assert set(found["label"].tolist()) == {0, 1, 2}
    (place / "cat" / "lost.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(UserError, match=r"lost.png can't be read: .*No such file"):
        everything(opened(place, PLAIN, place).train)


# Formats that the files say themselves.


def test_what_is_not_stated_is_what_the_files_say(tmp_path):
    made = SOURCES["files"]
    path = in_zip(tmp_path / "a.zip", {"0.png": png(IMAGES[0])})
    assert made(path=str(path)).format == PLAIN
    assert made(path=str(path), num_levels=17).num_levels == 17
    np.savez(tmp_path / "a.npz", images=IMAGES[..., :1], labels=np.arange(45))
    assert made(path=str(tmp_path / "a.npz")).format == Format((6, 4, 1), 256)
    np.savez(tmp_path / "a.npz", images=IMAGES[..., 0])
    with pytest.raises(UserError, match=r"images are of shape \(45, 6, 4\).*prepare-d"):
        made(path=str(tmp_path / "a.npz"))
    np.savez(tmp_path / "a.npz", latents=np.zeros((45, 3)))
    assert made(path=str(tmp_path / "a.npz")).format == Format((3,), None)
    with pytest.raises(UserError, match=r"there is no .*data.shape does not state"):
        made(path=str(tmp_path / "nothing.zip"))
    absent = made(path=str(tmp_path / "nothing.zip"), shape=(8, 8, 1))
    assert absent.format == Format((8, 8, 1), 256)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        '{"shape": [2]}',
        '{"shape": [-2], "num_levels": 0, "num_classes": 0, "sigma_data": 1.0,'
        ' "shift": [], "scale": []}',
        '{"shape": "two", "num_levels": 0, "num_classes": 0, "sigma_data": 1.0,'
        ' "shift": [], "scale": []}',
    ],
)
def test_a_format_that_is_none_is_refused(text, tmp_path):
    np.savez(tmp_path / "a.npz", latents=np.zeros((45, 2)), format=text)
    with pytest.raises(UserError, match=r"a.npz: format is not a format"):
        SOURCES["files"](path=str(tmp_path / "a.npz"))


# Addresses.

ADDRESSES = ["gs://bucket/data.npz", "s3://bucket", "https://a.b/c.zip", "gs:/b"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_are_refused_at_once(address, tmp_path):
    with pytest.raises(UserError, match=r"data.path is '.*'; it must be a path on th"):
        data.files(PLAIN, address, "")
    with pytest.raises(UserError, match=r"data.test_path is '.*'; it must be a path"):
        data.files(PLAIN, str(tmp_path), address)
    with pytest.raises(UserError, match=r"data.folder is '.*'; it must be a path on"):
        tfds_set("mnist", (), address)
    words = ["--config=patches", f"--workdir={tmp_path / 'run'}"]
    words += ["--config.data.name=files", f"--config.data.path={address}"]
    with pytest.raises(UserError, match=r"data.path is '.*'; it must be a path on"):
        train.main(launch.parse("", words))
    assert not (tmp_path / "run").exists()


def test_other_paths_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("a:b.npz", images=IMAGES)
    assert len(data.files(PLAIN, "a:b.npz", "").train) == 43
    assert jax.tree.leaves(data.files(PLAIN, "C:/b.npz", "").shape) == [6, 4, 3]
