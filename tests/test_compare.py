"""Two runs side by side: what is refused, how far apart, and the picture."""

import json

from PIL import Image

from experiments import compare
from score_sde.run.compare import comparison

KNOWN = {"name": "n", "weights": "ab" * 32, "resize": "tf1", "dtype": "float32"}


def a_side(
    folder,
    *,
    features=KNOWN,
    against="train",
    value=1.0,
    options=(),
    number=100,
    error=0.3,
):
    folder.mkdir()
    number = {
        **{"value": value, "low": value - 0.5, "high": value + 0.5},
        "counts": {"num_fake": number},
        "parts": {} if error is None else {"standard_error": error, "bias": 0.1},
    }
    report = {
        "made_by": {
            "config": {"metrics.frechet_distance.level": 0.95, **dict(options)}
        },
        "features": features,
        "reference": {"split": against},
        "against": f"the {against} split",
        "metrics": {"frechet_distance": {"samples": {"value": number}}},
    }
    (folder / "evaluation.json").write_text(json.dumps(report))
    (folder / "config.json").write_text("{}")
    return folder


def test_compare_refuses_other_features_and_references(tmp_path):
    first = a_side(tmp_path / "a", features=KNOWN)
    same = a_side(tmp_path / "same", features=KNOWN, value=2.0)
    assert "frechet_distance: 1 [0.5, 1.5] | 2 [1.5, 2.5]" in comparison(first, same)
    for key in ("name", "weights", "resize", "dtype"):
        other = a_side(tmp_path / key, features=KNOWN | {key: "other"})
        (line,) = (
            t for t in comparison(first, other).splitlines() if "be compared" in t
        )
        assert f"{first} has features with {key}" in line
        assert f"{other} has features with {key} 'other'" in line
        assert "frechet_distance: 1" not in comparison(first, other)
    test = a_side(tmp_path / "t", features=KNOWN, against="test")
    text = comparison(first, test)
    assert f"{first} was measured against the train split; {test} was" in text
    changed = a_side(
        tmp_path / "o", features=KNOWN, options={"metrics.frechet_distance.level": 0.5}
    )
    assert "frechet_distance can't be compared: {'level': 0.95}" in comparison(
        first, changed
    )


def test_compare_says_how_far_apart_and_whether_it_may_be_chance(tmp_path):
    first = a_side(tmp_path / "a")
    near = comparison(first, a_side(tmp_path / "b", value=1.5, error=0.4))
    # sqrt(0.3^2 + 0.4^2)
    words = "difference +0.5 +- 0.5, of two sets of samples"
    assert f"  {words}: may be chance\n" in near
    far = comparison(first, a_side(tmp_path / "c", value=3.0, error=0.4, number=50))
    assert "difference +2 +- 0.5, of two sets of samples\n" in far
    assert "of 100 | 50 samples, whose bias depends on their number" in far
    assert "samples, whose" not in near
    assert "difference" not in comparison(first, a_side(tmp_path / "d", error=None))


def test_compare_draws_losses_and_numbers_of_both_runs(tmp_path, capsys):
    sides = [a_side(tmp_path / name, value=v) for name, v in (("a", 1.0), ("b", 2.0))]
    for side, scale in zip(sides, (1, 2), strict=True):
        rows = [{"step": step, "loss": scale / step} for step in range(1, 40)]
        lines = [json.dumps(row) for row in rows]
        (side / "metrics.jsonl").write_text("\n".join(lines))
        scores = {"bits_per_dim": 2.0 + scale / 10, "standard_error": 0.03}
        report = {"made_by": {"data": scale}, "splits": {"test": scores}}
        (side / "likelihood.json").write_text(json.dumps(report))
    assert compare.main([str(side) for side in sides]) == 0
    path = sides[0] / "compare.png"
    assert f"{path}: losses and numbers of both" in capsys.readouterr()[0]
    with Image.open(path) as picture:
        three = picture.size
    for side in sides:
        (side / "metrics.jsonl").unlink()
    other = tmp_path / "other.png"
    arguments = [*map(str, sides), f"--picture={other}"]
    assert compare.main(arguments) == 0
    with Image.open(other) as picture:
        assert picture.width < three[0]
    for side in sides:
        (side / "likelihood.json").unlink()
        (side / "evaluation.json").unlink()
    other.unlink()
    assert compare.main(arguments) == 0
    assert not other.exists()
