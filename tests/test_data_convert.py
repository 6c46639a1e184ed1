"""Converting data: what comes out, what is said, and that it can be used at once."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from test_data_faults import encoded
from test_data_sources import IMAGES, LABELS, everything, in_folder, in_zip, png

from experiments import launch, prepare_data
from score_sde import data
from score_sde.data import SOURCES, Format, Units, identity
from score_sde.data.convert import convert, write
from score_sde.data.units import num_repeating
from score_sde.run.build import build
from score_sde.types import UserError

RANDOM = np.random.default_rng(1)
WIDE = RANDOM.integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
SMOOTH = np.broadcast_to(
    np.linspace(20, 230, 8)[:, None, None] + np.arange(3), (8, 8, 3)
).astype(np.uint8)
GREY = SMOOTH[..., 0]


def prepared(source, target, capsys=None, **options):
    """(data set that `files` makes of what the program wrote, what it said)."""
    words = [f"--{name}={value}" for name, value in options.items()]
    code = prepare_data.convert_main([f"--from={source}", f"--to={target}", *words])
    said = capsys.readouterr() if capsys else None
    assert code == 0, said
    path = str(target)
    return SOURCES["files"](path=path, test_path=path), said.out if said else ""


def refused(source, tmp_path, capsys, **options):
    words = [f"--{name}={value}" for name, value in options.items()]
    target = tmp_path / "refused.npz"
    code = prepare_data.convert_main([f"--from={source}", f"--to={target}", *words])
    assert code == 2
    assert not target.exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


# Pictures.


def sixteen_bits(levels):
    """A PNG of 16 bits: level k as 257 k."""
    stream = io.BytesIO()
    Image.fromarray(levels.astype(np.uint16) * 257).save(stream, "PNG")
    return stream.getvalue()


def test_modes_become_one(tmp_path, capsys):
    """Each picture shows the same grey, and so all become the same image."""
    grey = np.stack([GREY] * 3, -1)
    half = np.concatenate([grey, np.full((8, 8, 1), 255, np.uint8)], -1)
    half[:4, :, 3] = 0
    files = {
        "a.png": encoded(grey, "png"),
        "b.png": encoded(GREY, "png"),
        "c.png": sixteen_bits(GREY),
        "d.tif": encoded(grey, "tiff", "CMYK"),
        "e.png": encoded(half, "png"),
        "f.bmp": encoded(GREY, "bmp", "P"),
        "g.png": encoded(GREY, "png", "LA"),
    }
    dataset, said = prepared(
        in_zip(tmp_path / "a.zip", files), tmp_path / "out.npz", capsys
    )
    assert dataset.format == Format((8, 8, 3), 256)
    found = everything(dataset.train)["values"]
    expected = np.stack([grey] * 7)
    expected[4, :4] = 255
    np.testing.assert_array_equal(found, expected)
    for line in (
        "7 pictures of 7 were read",
        "16 bits to 8: 1",
        "CMYK to RGB: 1",
        "transparency laid on white: 1",
        "L to RGB: 3",
    ):
        assert f"  {line}\n" in said


def test_pictures_without_colours_stay_grey(tmp_path, capsys):
    files = {"a.png": encoded(GREY, "png"), "b.png": sixteen_bits(GREY)}
    dataset, _ = prepared(
        in_folder(tmp_path / "a", files), tmp_path / "out.npz", capsys
    )
    assert dataset.shape == (8, 8, 1)
    found = everything(dataset.train)["values"]
    np.testing.assert_array_equal(found[..., 0], [GREY] * 2)


def test_sizes_become_one_if_one_is_given(tmp_path, capsys):
    wide = np.full((8, 20, 3), 9, np.uint8)
    wide[:, 6:14] = SMOOTH
    files = {
        "wide.png": encoded(wide, "png"),
        "square.png": encoded(SMOOTH, "png"),
        "large.png": encoded(SMOOTH.repeat(4, 0).repeat(4, 1), "png"),
        "small.png": encoded(SMOOTH[:4, :4], "png"),
    }
    path = in_zip(tmp_path / "a.zip", files)
    error = refused(path, tmp_path, capsys)
    assert "4 sizes, from 4 x 4 to 32 x 32 pixels: give --size=N" in error
    dataset, said = prepared(path, tmp_path / "out.npz", capsys, size=8)
    large, _, square, cut = everything(dataset.train)["values"]
    np.testing.assert_array_equal(square, SMOOTH)
    np.testing.assert_array_equal(cut, SMOOTH)
    # A staircase of blocks of four, averaged over more than one block by the filter.
    assert np.abs(large.astype(int) - SMOOTH).max() < 8
    assert "  cut and resized: 2\n" in said
    assert "  enlarged: 1\n" in said


@pytest.mark.parametrize("kind", ["jpeg", "tiff", "png"])
def test_exif_turns_come_before_sizes(kind, tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    tall = np.full((12, 8, 3), 50, np.uint8)
    tall[:6] = 200
    lying = np.ascontiguousarray(tall.transpose(1, 0, 2)[::-1])
    files = {
        f"a.{kind}": encoded(lying, kind, exif=exif),
        f"b.{kind}": encoded(tall, kind),
    }
    dataset, said = prepared(
        in_zip(tmp_path / "a.zip", files), tmp_path / "out.npz", capsys
    )
    assert dataset.shape == (12, 8, 3)
    assert "turned upright by EXIF: 1\n" in said
    found = everything(dataset.train)["values"].astype(int)
    assert np.abs(found - tall).max() < 8  # JPEG


def test_broken_and_other_files_are_left_out_and_counted(tmp_path, capsys):
    files = {f"{i}.png": png(IMAGES[i]) for i in range(6)}
    files |= {"3.png": files["3.png"][:60], "4.png": b"", "notes.txt": b""}
    dataset, said = prepared(
        in_zip(tmp_path / "a.zip", files), tmp_path / "out.npz", capsys
    )
    np.testing.assert_array_equal(
        everything(dataset.train)["values"], IMAGES[[0, 1, 2, 5]]
    )
    assert "4 pictures of 6 were read" in said
    assert "left out: 1 file (.txt)" in said
    assert "left out, broken: 2 (3.png: image file is truncated; 4.png: it is" in said


def test_labels_of_pictures(tmp_path, capsys):
    files = {f"{'dog' if i % 2 else 'cat'}/{i}.png": png(IMAGES[i]) for i in range(4)}
    table = {name: 7 + 2 * (i > 1) for i, name in enumerate(files)}
    folder = in_folder(tmp_path / "a", files)
    lines = "\n".join(f"{name},{label}" for name, label in table.items())
    (tmp_path / "t.csv").write_text(f"name,class\n{lines}\n")
    rows = {"labels": list(table.items())}
    (tmp_path / "t.json").write_text(json.dumps(rows))
    for number, (labels, names) in enumerate(
        {
            "": ["cat", "dog"],
            "FOLDERS": ["cat", "dog"],
            tmp_path / "t.csv": ["7", "9"],
            tmp_path / "t.json": ["7", "9"],
        }.items()
    ):
        target = tmp_path / f"{number}.npz"
        dataset, said = prepared(folder, target, capsys, labels=labels)
        assert f"labels: 2 classes, numbered: {', '.join(names)}" in said
        assert dataset.num_classes == 2
        found = everything(dataset.train)
        rows = [IMAGES.tolist().index(image.tolist()) for image in found["values"]]
        expected = [i % 2 if names[0] == "cat" else int(i in (1, 3)) for i in rows]
        if names[0] == "7":
            expected = [
                (table[n] - 7) // 2 for i in rows for n in files if f"/{i}." in n
            ]
        assert found["label"].tolist() == expected
    (folder / "stray.png").write_bytes(png(IMAGES[9]))
    assert "stray.png is in no folder" in refused(
        folder, tmp_path, capsys, labels="folders"
    )
    assert "--labels is 'nothing'" in refused(
        folder, tmp_path, capsys, labels="nothing"
    )
    unlabelled, _ = prepared(folder, tmp_path / "5.npz", capsys)
    assert unlabelled.num_classes == 0


# Arrays of images.


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (WIDE, ""),
        (WIDE.astype(np.int64), "int64 to whole numbers from 0 to 255"),
        (WIDE / 255, "float64 to whole"),
        ((WIDE / 255).astype(np.float32), "float32 to whole"),
        ((WIDE / 255).astype(np.float16), "float16 to whole"),
        ((WIDE / 127.5 - 1).astype(np.float32), "float32 to whole"),
        (WIDE.astype(np.float64), "float64 to whole"),
        (WIDE.transpose(0, 3, 1, 2), "channels moved to the last axis"),
        (np.asfortranarray(WIDE), ""),
        (WIDE.astype(">u2"), ">u2 to whole"),
    ],
)
def test_images_of_any_layout_are_the_same_levels(array, said, tmp_path, capsys):
    np.save(tmp_path / "a.npy", array)
    dataset, text = prepared(tmp_path / "a.npy", tmp_path / "out.npz", capsys)
    assert dataset.format == Format((6, 5, 3), 256)
    np.testing.assert_array_equal(everything(dataset.train)["values"], WIDE)
    assert said in text


def test_grey_images_without_an_axis_for_it(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", x_train=IMAGES[..., 0], y_train=np.eye(45)[:, :2] + 0)
    error = refused(tmp_path / "a.npz", tmp_path, capsys)
    assert "rows of 2 numbers that are not one-hot" in error
    np.savez(tmp_path / "a.npz", x_train=IMAGES[..., 0], y_train=np.eye(2)[LABELS])
    dataset, said = prepared(tmp_path / "a.npz", tmp_path / "out.npz", capsys)
    assert dataset.format == Format((6, 4, 1), 256, 2)
    found = everything(dataset.train)
    np.testing.assert_array_equal(found["values"][..., 0], IMAGES[..., 0])
    assert found["label"].tolist() == LABELS.tolist()
    assert "array 'x_train' of ['x_train', 'y_train'], labels 'y_train'" in said
    assert "labels: 2 classes, of one-hot rows" in said


def test_levels_can_be_fewer(tmp_path, capsys):
    few = IMAGES[..., :1] // 16
    np.save(tmp_path / "a.npy", few)
    _, said = prepared(tmp_path / "a.npy", tmp_path / "one.npz", capsys)
    assert "no level is above 15, of 256: dark, unless --levels" in said
    dataset, said = prepared(
        tmp_path / "a.npy", tmp_path / "two.npz", capsys, levels=16
    )
    assert dataset.num_levels == 16
    assert "dark" not in said
    assert "--levels is 9" in refused(tmp_path / "a.npy", tmp_path, capsys, levels=9)
    np.save(tmp_path / "b.npy", few[..., 0] > 7)
    dataset, _ = prepared(tmp_path / "b.npy", tmp_path / "three.npz", capsys)
    assert dataset.format == Format((6, 4, 1), 2)


def test_the_standard_deviation_is_that_of_the_scaled_data(tmp_path, capsys):
    np.save(tmp_path / "a.npy", IMAGES)
    dataset, _ = prepared(tmp_path / "a.npy", tmp_path / "out.npz", capsys)
    x = data.centres(everything(dataset.train)["values"], num_levels=256)
    assert dataset.sigma_data == pytest.approx(np.std(x.astype(np.float64)), rel=1e-6)


# Points, tables and series.


def test_points_are_scaled_and_the_way_back_is_known(tmp_path, capsys):
    points = RANDOM.normal(size=(500, 2)) * [3.0, 0.01] + [1000.0, -5.0]
    np.save(tmp_path / "a.npy", points)
    dataset, said = prepared(tmp_path / "a.npy", tmp_path / "out.npz", capsys)
    x = everything(dataset.train)["values"]
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(0), 1, rtol=1e-6)
    assert dataset.sigma_data == pytest.approx(1, rel=1e-6)
    # float32 keeps 6e-8 of each number of standard deviations.
    np.testing.assert_allclose(dataset.to_units(x), points, rtol=0, atol=3e-6)
    np.testing.assert_array_equal(dataset.from_units(dataset.to_units(x)), x)
    assert "shifted by -1000 to 5" in said or "shifted by" in said
    assert "500 examples of shape (2,)" in said


def test_the_jacobian_is_that_of_the_map():
    """A Gaussian in the user's units, against its density there."""
    units = Units((1000.0, -5.0), (3.0, 0.01))
    u = RANDOM.normal(size=(9, 2)) * units.scale + units.shift
    x = (u - units.shift) / units.scale
    in_x = (-0.5 * x**2 - 0.5 * np.log(2 * np.pi)).sum(1)
    in_u = (
        -0.5 * ((u - units.shift) / units.scale) ** 2
        - 0.5 * np.log(2 * np.pi * np.square(units.scale))
    ).sum(1)
    np.testing.assert_allclose(in_x - units.log_scale((2,)), in_u, rtol=1e-12)
    # A series of seven such points has the Jacobian of each.
    assert units.log_scale((7, 2)) == pytest.approx(7 * units.log_scale((2,)))
    assert Units().log_scale((7, 2)) == 0


def test_a_table_of_text(tmp_path, capsys):
    text = "height;weight;kind\n1.8;80;b\n1.7;;a\n1.6;60;a\n1.5;70;b\n"
    (tmp_path / "a.csv").write_text(text)
    error = refused(tmp_path / "a.csv", tmp_path, capsys)
    assert "line 2: kind is 'b', no number; --labels=kind takes the column" in error
    dataset, said = prepared(
        tmp_path / "a.csv", tmp_path / "out.npz", capsys, labels="kind"
    )
    found = everything(dataset.train)
    np.testing.assert_allclose(
        dataset.to_units(found["values"]),
        [[1.8, 80], [1.6, 60], [1.5, 70]],
        rtol=1e-6,
    )
    assert found["label"].tolist() == [1, 0, 1]
    for line in ("columns height, weight", "left out, not finite: 1", "numbered: a, b"):
        assert line in said
    (tmp_path / "b.csv").write_text("1,2\n3,4\n3,5,6\n")
    assert "line 3: 3 cells; expected 2" in refused(
        tmp_path / "b.csv", tmp_path, capsys
    )
    (tmp_path / "c.csv").write_text("1,2\n3,4\n")
    plain, _ = prepared(tmp_path / "c.csv", tmp_path / "two.npz", capsys)
    assert plain.shape == (2,)


def test_series_are_scaled_by_channel(tmp_path, capsys):
    series = RANDOM.normal(size=(40, 7, 2)) * [10, 1] + [0, 5]
    series[..., 1] = 5
    np.save(tmp_path / "a.npy", series)
    dataset, said = prepared(tmp_path / "a.npy", tmp_path / "out.npz", capsys)
    assert dataset.shape == (7, 2)
    x = everything(dataset.train)["values"]
    assert (x[..., 1] == 0).all()
    assert "constant, and only shifted: 1 columns" in said
    assert "over and over: 7 of 14 numbers; their density has no upper limit" in said
    np.testing.assert_allclose(dataset.to_units(x), series, atol=1e-5)
    assert dataset.log_scale == pytest.approx(7 * np.log(series[..., 0].std()))


def test_numbers_that_repeat_are_told_from_continuous_ones():
    """Constants, counts and classes repeat; floats that were rounded a little don't."""
    n = 1_000
    columns = {
        "constant": np.full(n, 3.0),
        "counts": RANDOM.integers(0, 20, n).astype(float),
        "floats": RANDOM.normal(size=n),
        "rounded": RANDOM.normal(size=n).round(4),
        "a few the same": np.where(np.arange(n) < n // 5, 0.0, RANDOM.normal(size=n)),
    }
    found = {name: num_repeating(a.astype(np.float32)) for name, a in columns.items()}
    assert found == dict.fromkeys(columns, 0) | {"constant": 1, "counts": 1}
    assert num_repeating(np.stack([*columns.values()], -1)) == 2
    assert num_repeating(np.zeros((1, 4))) == 0  # of one example nothing is known


# What `files` makes of it.


def test_a_prepared_file_needs_nothing_else_and_may_be_agreed_with(tmp_path, capsys):
    points = RANDOM.normal(size=(60, 3)) + 1000
    np.savez(tmp_path / "a.npz", x=points, y=np.arange(60) % 3)
    target = tmp_path / "out.npz"
    made, _ = prepared(tmp_path / "a.npz", target, capsys)
    assert made.format == Format((3,), None, 3)
    files = SOURCES["files"]
    again = files(path=str(target), test_path=str(target), **made.facts)
    assert again.facts == made.facts
    assert identity(again) == identity(made)
    assert json.loads(json.dumps(identity(made)))["format"]["scale"]
    off = files(path=str(target), num_classes=0)
    assert set(everything(off.train)) == {"values"}
    for name, value in {
        "shape": (4,),
        "num_levels": 256,
        "num_classes": 2,
        "shift": (0.0, 0.0, 0.0),
        "scale": (1.0, 1.0, 1.0),
    }.items():
        with pytest.raises(UserError, match=rf"{name} is .*out.npz says .*leave data."):
            files(path=str(target), **{name: value})
    gone = files(path=str(tmp_path / "gone.npz"), **made.facts)
    assert gone.to_units(np.zeros(3)).tolist() == list(made.units.shift)


def test_a_config_of_a_prepared_file_states_its_path_alone(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", x=RANDOM.normal(size=(60, 2)) * 9 + 1000)
    prepared(tmp_path / "a.npz", tmp_path / "out.npz", capsys)
    words = [
        "--config=points",
        f"--workdir={tmp_path / 'run'}",
        "--config.data.name=files",
        f"--config.data.path={tmp_path / 'out.npz'}",
    ]
    experiment = build(launch.parse("", words).config)
    assert experiment.dataset.shape == (2,)
    assert experiment.dataset.log_scale == pytest.approx(2 * np.log(9), abs=0.5)
    with pytest.raises(UserError, match=r"data: shape is \(3,\), and .*out.npz says"):
        build(launch.parse("", [*words, "--config.data.shape=(3,)"]).config)


def test_units_that_do_not_suit_are_refused(tmp_path):
    files = SOURCES["files"]
    for changes, message in (
        ({"shift": (1.0,), "scale": (1.0,)}, r"\(1, 1\) entries; expected 2 each"),
        ({"shift": (1.0, 2.0)}, r"\(2, 0\) entries"),
    ):
        with pytest.raises(UserError, match=message):
            files(path=str(tmp_path / "a.npz"), shape=(2,), num_levels=0, **changes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", {"a": [1.0, 2], "b": [3.0, 4]}, "call the examples 'images'"),
        ("a.npz", {"format": "{}", "latents": [1.0]}, "is prepared already"),
        ("a.npz", {"x": np.ones((5, 2))}, "all examples are the same"),
        ("a.npz", {"x": np.ones((5, 2, 2), np.uint8)}, "all values are the same"),
        ("a.npz", {"x": np.zeros((0, 2))}, "0 finite examples"),
        ("a.npz", {"x": np.ones(3, complex)}, "has complex128 of shape"),
        ("a.npz", {"x": np.array(["a"])}, "has <U1 of shape"),
        ("a.npz", {"x": np.array([None])}, "is no array, or a broken one"),
        ("a.npz", {"x": [1.0, 2], "y": [1]}, "has 2 examples and 1 labels"),
        ("a.npz", {"x": [1.0, 2], "y": [0.5, 1]}, "labels are no whole numbers"),
        ("a.npz", {"x": np.zeros((9, 5, 5, 2), np.uint8)}, "with an axis of"),
        ("a.npy", b"nothing", "is no array, or a broken one"),
        ("a.csv", b"", "is empty"),
        ("a.zip", b"", "is no folder, .zip or .npz file"),
        ("a.parquet", b"", "is no folder, .zip or .npz file"),
    ],
)
def test_what_can_not_be_converted_is_said(name, content, message, tmp_path, capsys):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    assert message in refused(path, tmp_path, capsys)


def test_the_command_line(tmp_path, capsys):
    np.save(tmp_path / "a.npy", IMAGES)
    source, target = f"--from={tmp_path / 'a.npy'}", f"--to={tmp_path / 'out.npz'}"
    for words, message in (
        ([source], "give --to"),
        ([target], "give --from"),
        ([source, target, "--sise=3"], "did you mean --size?"),
        ([source, target, "--size=0"], "--size is 0; it must be at least 1"),
        ([source, target, "--size=a"], "invalid int value: 'a'"),
    ):
        with pytest.raises(SystemExit) as exit_:
            prepare_data.convert_main(words)
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err
    for words, message in (
        ([f"--from={tmp_path / 'b'}", target], "there is nothing"),
        (
            ["--from=gs://a/b", target],
            "--from is 'gs://a/b'; it must be a path on this",
        ),
        ([source, "--to=gs://a/b.npz"], "--to is 'gs://a/b.npz'; it must be a path on"),
        ([source, f"--to={tmp_path / 'out'}"], "its name must end in .npz"),
        ([source, f"--to={tmp_path / 'a.npy'}"], "its name must end in .npz"),
    ):
        assert prepare_data.convert_main(words) == 2
        assert message in capsys.readouterr().err
    assert prepare_data.converts(["--from", "a"])
    assert not prepare_data.converts(["--config=digits", "--workdir=a"])
    assert prepare_data.convert_main([source, target]) == 0
    assert "use them: --config.data.name=files" in capsys.readouterr().out
    before = (tmp_path / "out.npz").read_bytes()
    assert prepare_data.convert_main([source, target]) == 2
    assert "which is there" in capsys.readouterr().err
    assert (tmp_path / "out.npz").read_bytes() == before


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", IMAGES)
    made = convert(str(tmp_path / "a.npy"))

    def fails(stream, **arrays):
        stream.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", fails)
    with pytest.raises(OSError, match="no space"):
        write(made, tmp_path / "out.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


# Data that must be like others.


def test_a_test_split_gets_units_and_classes_of_those_to_train_on(tmp_path, capsys):
    points = RANDOM.normal(size=(90, 2)) * 7 + 1000
    kinds = np.asarray(["a", "b", "c"])[np.arange(90) % 3]
    np.savez(tmp_path / "a.npz", x=points[:60], y=kinds[:60])
    np.savez(
        tmp_path / "b.npz", x=points[60:] + 3, y=np.where(kinds[60:] == "a", "b", "c")
    )
    train, alone, test = (tmp_path / f"{n}.npz" for n in ("train", "alone", "test"))
    prepared(tmp_path / "a.npz", train, capsys)
    prepared(tmp_path / "b.npz", alone, capsys)
    prepared(tmp_path / "b.npz", test, capsys, like=train)
    files = SOURCES["files"]
    with pytest.raises(UserError, match=r"whose shift is .*Prepare it like the other"):
        files(path=str(train), test_path=str(alone))
    made = files(path=str(train), test_path=str(test))
    found = everything(made.test)
    np.testing.assert_allclose(
        made.to_units(found["values"]), points[60:] + 3, rtol=1e-6
    )
    assert set(found["label"].tolist()) == {1, 2}
    np.savez(tmp_path / "c.npz", x=points[:2], y=["a", "d"])
    error = refused(tmp_path / "c.npz", tmp_path, capsys, like=train)
    assert "have the class 'd', none of ['a', 'b', 'c']" in error
    np.savez(tmp_path / "c.npz", x=points[:, :1])
    error = refused(tmp_path / "c.npz", tmp_path, capsys, like=train)
    assert "entries; expected 1 each" in error
    error = refused(tmp_path / "c.npz", tmp_path, capsys, like=tmp_path / "a.npz")
    assert "has no array of ['images', 'latents'], but ['x', 'y']" in error
    np.savez(tmp_path / "c.npz", latents=points)
    error = refused(tmp_path / "a.npz", tmp_path, capsys, like=tmp_path / "c.npz")
    assert "it must be a file that prepare-data wrote" in error


def test_pictures_get_size_colours_and_classes_of_others(tmp_path, capsys):
    first = {f"{n}/0.png": encoded(SMOOTH, "png") for n in ("cat", "dog", "elk")}
    large = np.ascontiguousarray(GREY.repeat(2, 0).repeat(2, 1))
    second = {f"{n}/0.png": encoded(large, "png") for n in ("elk", "dog")}
    prepared(in_zip(tmp_path / "a.zip", first), tmp_path / "a.npz", capsys)
    like = {"like": tmp_path / "a.npz"}
    dataset, said = prepared(
        in_zip(tmp_path / "b.zip", second), tmp_path / "b.npz", capsys, **like
    )
    assert dataset.format == Format((8, 8, 3), 256, 3)
    assert everything(dataset.train)["label"].tolist() == [1, 2]
    assert "labels: 2 of 3 classes" in said
    np.save(tmp_path / "c.npy", IMAGES[..., :1])
    error = refused(tmp_path / "c.npy", tmp_path, capsys, **like)
    assert "shape is [8, 8, 1]; that of --like is (8, 8, 3)" in error


def test_folders_of_other_classes_are_not_taken_for_the_same(tmp_path):
    places = [
        in_folder(tmp_path / name, {f"{n}/0.png": png(IMAGES[0]) for n in classes})
        for name, classes in (("a", ("cat", "dog")), ("b", ("dog", "elk")))
    ]
    dataset = data.files(Format((6, 4, 3), 256, 2), *map(str, places))
    assert len(dataset.train) == 2
    with pytest.raises(UserError, match=r"has the classes \['dog', 'elk'\], and .*"):
        dataset.split("test")


def test_tables_that_are_no_text_are_said(tmp_path, capsys):
    (tmp_path / "a.csv").write_bytes(b"1,2\n\xff\xfe,4\n")
    assert "is no text in UTF-8" in refused(tmp_path / "a.csv", tmp_path, capsys)
    (tmp_path / "a.csv").write_bytes(b"x,kind\n1,a\n2,\n")
    error = refused(tmp_path / "a.csv", tmp_path, capsys, labels="kind")
    assert "line 3: kind is empty; expected a class" in error
