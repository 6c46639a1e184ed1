"""Files of statistics: our own, other programs', and what is refused."""

import itertools
import os
import pickle
from statistics import NormalDist

import numpy as np
import pytest

from score_sde import evaluation
from score_sde.evaluation import (
    frechet_distance,
    merge_moments,
    moments_of,
    read_statistics,
    write_statistics,
)
from score_sde.evaluation.statistics import UNKNOWN, difference
from score_sde.types import UserError

ORIGIN = {
    "features": {
        "name": "n",
        "resize": "tf1",
        "weights": "ab" * 32,
        "dtype": "float32",
    },
    "dataset": "some",
    "split": "train",
}


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return rng.standard_normal((300, 5)), 0.3 + rng.standard_normal((200, 5))


def moments_by_numpy(x):
    return {"mu": x.mean(0), "sigma": np.cov(x.T)}


def test_own_file_gives_the_distance_of_the_features_and_says_its_origin(
    tmp_path, features
):
    real, fake = features
    path = tmp_path / "deep" / "reference.npz"
    write_statistics(path, moments_of(real), ORIGIN)
    found = read_statistics(path, dims=5)
    assert found.number == 300
    assert found.origin == ORIGIN
    assert "300 examples, 5 features of some, train split" in str(found)
    whole = frechet_distance(real, fake)
    estimate = frechet_distance(found, fake)
    assert estimate.value == pytest.approx(whole.value, rel=1e-9)
    assert estimate.counts == whole.counts
    assert "fixed reference" in estimate.method
    # Without the reference's own bias and error less is uncertain.
    assert 0 < estimate.parts["bias"] < whole.parts["bias"]
    assert 0 < estimate.parts["standard_error"] < whole.parts["standard_error"]
    # EDM and guided-diffusion read the same file by these names.
    with np.load(path) as file:
        np.testing.assert_allclose(file["mu"], real.mean(0), rtol=1e-12)
        np.testing.assert_allclose(file["sigma"], np.cov(real.T), rtol=1e-12)
    assert [p.name for p in path.parent.iterdir()] == ["reference.npz"]


def test_interval_against_a_fixed_reference_holds_the_distance_at_its_rate():
    rng, held, centred = np.random.default_rng(1), 0, 0
    dims, mean, scale = 6, 0.4, 1.3
    exact = evaluation.Statistics(None, np.zeros(dims), np.eye(dims), None)
    truth = dims * (mean**2 + (scale - 1) ** 2)
    for _ in range(200):
        fake = mean + scale * rng.standard_normal((400, dims))
        estimate = frechet_distance(exact, fake)
        held += estimate.low <= truth <= estimate.high
        off = estimate.value - estimate.parts["bias"] - truth
        half = NormalDist().inv_cdf(0.975) * estimate.parts["standard_error"]
        centred += abs(off) <= half
    error = (0.95 * 0.05 * 200) ** 0.5
    assert abs(centred - 190) <= 3 * error
    assert held >= centred
    assert "num_real" not in estimate.counts


def test_statistics_of_other_programs_are_taken_on_trust(tmp_path, features):
    real, fake = features
    whole = frechet_distance(real, fake).value
    wide = np.random.default_rng(2).standard_normal((300, 7))
    np.savez(tmp_path / "edm.npz", **moments_by_numpy(real))
    guided = {f"{k}_s": v for k, v in moments_by_numpy(wide).items()}
    images = np.zeros((3, 4, 4, 3), np.uint8)
    both = {**moments_by_numpy(real), **guided, "arr_0": images}
    np.savez(tmp_path / "guided.npz", **both)
    nested = {"fid": moments_by_numpy(real), "fd_dinov2": moments_by_numpy(wide)}
    (tmp_path / "edm2.pkl").write_bytes(pickle.dumps(nested))
    for name in ("edm.npz", "guided.npz", "edm2.pkl"):
        found = read_statistics(tmp_path / name, dims=5)
        assert found.origin is None
        assert found.number is None
        assert str(found).endswith(UNKNOWN)
        assert frechet_distance(found, fake).value == pytest.approx(whole, rel=1e-9)
    for name, kind in (("guided.npz", "spatial"), ("edm2.pkl", "")):
        found = read_statistics(tmp_path / name, dims=7, kind=kind)
        np.testing.assert_allclose(found.mean, wide.mean(0), rtol=1e-12)
    assert "(fd_dinov2)" in str(read_statistics(tmp_path / "edm2.pkl", dims=7))
    assert read_statistics(tmp_path / "guided.npz", dims=5).images.shape == images.shape


def test_spatial_statistics_are_chosen_where_both_have_as_many_features(
    tmp_path, features
):
    real, fake = features
    spatial = {f"{k}_s": v for k, v in moments_by_numpy(fake).items()}
    np.savez(tmp_path / "both.npz", **moments_by_numpy(real), **spatial)
    for kind, rows in (("2048", real), ("spatial", fake)):
        found = read_statistics(tmp_path / "both.npz", dims=5, kind=kind)
        np.testing.assert_allclose(found.mean, rows.mean(0))


class Harmful:
    """An object whose pickle makes a folder when it is loaded by `pickle`."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_is_never_run(tmp_path):
    trap = tmp_path / "made_by_the_pickle"
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps({"fid": {"mu": Harmful(str(trap)), "sigma": 0}}))
    with pytest.raises(UserError, match="refused: the file wants to import") as error:
        read_statistics(path, dims=5)
    assert "Nothing was executed" in str(error.value)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"weights": np.zeros(3)}, r"holds no statistics but \['weights'\]"),
        (
            {"mu": np.zeros(4), "sigma": np.eye(4)},
            "sigma': 4} features; .* have 5",
        ),
        ({"mu": np.zeros(5), "sigma": np.eye(4)}, r"covariance of \(4, 4\)"),
        ({"mu": np.full(5, np.nan), "sigma": np.eye(5)}, "NaN or inf"),
        ({"mu": np.zeros(5), "sigma": np.triu(np.ones((5, 5)))}, "not symmetric"),
        ({"mu": np.zeros(5), "sigma": -np.eye(5)}, "variance below 0"),
        (
            {"mu": np.zeros(5), "sigma": np.eye(5), "origin": np.asarray("{")},
            "its origin is no JSON",
        ),
        (
            {"mu": np.zeros(5), "sigma": np.eye(5), "origin": np.asarray("{}")},
            "its origin names no features",
        ),
    ],
)
def test_what_is_no_statistics_is_refused(tmp_path, content, words):
    path = tmp_path / "some.npz"
    np.savez(path, **content)
    with pytest.raises(UserError, match=words):
        read_statistics(path, dims=5)


def test_damaged_and_missing_files_are_refused(tmp_path, features):
    path = tmp_path / "reference.npz"
    with pytest.raises(UserError, match=r"no file .*reference\.npz"):
        read_statistics(path, dims=5)
    write_statistics(path, moments_of(features[0]), ORIGIN)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(UserError, match="damaged or cut off"):
        read_statistics(path, dims=5)
    with pytest.raises(ValueError, match="moments are of 1 examples, not 2 or more"):
        write_statistics(path, moments_of(features[0][:1]), ORIGIN)


@pytest.mark.parametrize("key", ["name", "resize", "weights", "dtype"])
def test_a_difference_is_one_line_that_names_both(key):
    mine = ORIGIN["features"]
    assert difference(mine, dict(mine), names=("a", "b")) is None
    other = mine | {key: "cd" * 32 if key == "weights" else "another"}
    text = difference(mine, other, names=("runs/a", "runs/b"))
    assert "\n" not in text
    before, after = text.split(";")
    assert f"runs/a has features with {key}" in before
    assert f"runs/b has features with {key}" in after
    assert mine[key][:12] in before
    assert other[key][:7] in after
    for same in {*mine} - {key}:
        assert same not in text.replace("features with", "")
    assert difference(mine, {}, names=("a", "b")).count("none") == 4


def test_moments_merge_to_one_number_in_any_order(features):
    real, fake = features
    big = (1e3 + real).astype(np.float32)
    parts = [moments_of(p) for p in np.split(big, [3, 50, 51, 200])]
    whole = moments_of(big)
    for order in itertools.permutations(range(len(parts))):
        merged = merge_moments(parts[i] for i in order)
        assert merged.number == whole.number
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-9, atol=1e-9)
        value = frechet_distance(merged, fake + 1e3, level=None).value
        assert value == pytest.approx(
            frechet_distance(whole, fake + 1e3, level=None).value, rel=1e-9
        )
    # As a tree, as hosts would.
    halves = [merge_moments(parts[:2]), merge_moments(parts[2:])]
    np.testing.assert_allclose(
        merge_moments(halves[::-1]).covariance, whole.covariance, rtol=1e-9, atol=1e-12
    )


def test_distance_by_number_falls_to_its_limit_at_the_known_rate():
    rng, dims = np.random.default_rng(3), 8
    exact = evaluation.Statistics(None, np.zeros(dims), np.eye(dims), None)
    curves = [
        evaluation.frechet_by_number(exact, 0.5 + rng.standard_normal((1000, dims)))
        for _ in range(40)
    ]
    assert curves[0]["number"].tolist() == [200, 360, 520, 680, 840, 1000]
    limits = [float(c["limit"]) for c in curves]
    error = np.std(limits) / len(limits) ** 0.5
    assert np.mean(limits) == pytest.approx(dims * 0.25, abs=4 * error)
    # Of one empirical side: d / n of the mean and d (d + 1) / (4 n) of the covariance.
    slopes = [float(c["slope"]) for c in curves]
    error = np.std(slopes) / len(slopes) ** 0.5
    assert np.mean(slopes) == pytest.approx(dims + dims * (dims + 1) / 4, abs=4 * error)


def statistics_of(x, **changes):
    origin = {**ORIGIN, "features": {**ORIGIN["features"], **changes}}
    moments = moments_of(x)
    return evaluation.Statistics(
        moments.number, moments.mean, moments.covariance, origin, where="some.npz"
    )


def test_either_side_of_a_distance_may_be_moments(features):
    real, fake = features
    whole = frechet_distance(real, fake)
    for make in (moments_of, statistics_of):
        here, there = (
            frechet_distance(make(real), fake),
            frechet_distance(fake, make(real)),
        )
        assert here.method == there.method
        for name in ("value", "low", "high"):
            assert getattr(here, name) == pytest.approx(getattr(there, name), rel=1e-9)
        assert here.value == pytest.approx(whole.value, rel=1e-9)
        assert (there.counts["num_real"], there.counts["num_fake"]) == (200, 300)
        for distance in (frechet_distance, evaluation.frechet_distance_of_moments):
            alone = distance(make(real), statistics_of(fake))
            assert alone.value == pytest.approx(whole.value, rel=1e-9)
            assert np.isnan(alone.low)
            assert alone.counts == whole.counts
            assert distance(make(real), make(real)).value == 0


@pytest.mark.parametrize("key", ["name", "resize", "weights", "dtype"])
def test_statistics_of_other_features_are_refused_by_the_distance(key, features):
    real, fake = features
    sides = statistics_of(real), statistics_of(fake, **{key: "another"})
    for distance in (frechet_distance, evaluation.frechet_distance_of_moments):
        with pytest.raises(ValueError, match=f"can't be compared: .* with {key}"):
            distance(*sides)


DISTANCES = {
    "frechet_distance": frechet_distance,
    "fd_infinity": evaluation.fd_infinity,
    "frechet_by_number": evaluation.frechet_by_number,
}


@pytest.mark.parametrize("name", [*DISTANCES, "frechet_distance_of_moments"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m._replace(mean=m.mean * np.nan), "NaN or inf"),
        (lambda m: m._replace(scatter=m.scatter * np.nan), "NaN or inf"),
        (lambda m: m._replace(scatter=m.scatter + np.inf), "NaN or inf"),
        (lambda m: m._replace(number=1), "1 examples, not 2 or more"),
        (lambda m: m._replace(scatter=m.scatter[:4]), r"scatter of \(4, 5\)"),
        (lambda m: m._replace(mean=m.mean[:4]), r"a mean of \(4,\)"),
        (lambda m: m._replace(scatter=-m.scatter), "variance below 0"),
        (lambda m: m._replace(scatter=np.triu(1 + m.scatter)), "not symmetric"),
    ],
)
def test_moments_that_are_none_are_refused_by_every_distance(
    name, change, words, features
):
    real, fake = features
    bad = change(moments_of(real))
    other = moments_of(fake) if name not in DISTANCES else fake
    distance = DISTANCES.get(name, evaluation.frechet_distance_of_moments)
    with pytest.raises(ValueError, match=words):
        distance(bad, other)
    if name not in ("fd_infinity", "frechet_by_number"):
        with pytest.raises(ValueError, match=words):
            distance(other, bad)


def test_what_takes_subsets_or_moments_says_so(features):
    real, fake = features
    for name in ("fd_infinity", "frechet_by_number"):
        with pytest.raises(ValueError, match="fake is Moments; it must be features"):
            DISTANCES[name](real, moments_of(fake))
    with pytest.raises(ValueError, match="second is ndarray; it must be Moments or"):
        evaluation.frechet_distance_of_moments(moments_of(real), fake)


def test_parts_of_no_more_examples_than_features_are_warned_of(features):
    real, fake = (np.tile(f, (1, 8)) + np.arange(40) for f in features)
    rng = np.random.default_rng(5)
    real, fake = (f + rng.standard_normal(f.shape) for f in (real, fake))
    found = evaluation.fd_infinity(real, fake, sizes=(40, 80, 160), seed=None)
    assert "n = 40 examples are no more than the 40" in found.warnings[0]
    assert not evaluation.fd_infinity(real, fake, sizes=(41, 80, 160)).warnings
    curve = evaluation.frechet_by_number(real, fake)
    assert curve["number"].tolist() == [40, 72, 104, 136, 168, 200]
    assert curve["few"] == 1
    assert evaluation.frechet_by_number(real[:40], fake)["few"] == 6


def test_a_reference_of_other_features_is_refused_by_the_distance(features):
    real, fake = features
    with pytest.raises(ValueError, match="other has 4 features; it must have 5"):
        frechet_distance(moments_of(real), fake[:, :4])
    held = evaluation.fd_infinity(moments_of(real), fake, num_sizes=5)
    whole = evaluation.fd_infinity(real, fake, num_sizes=5)
    assert held.value == pytest.approx(whole.value, rel=1e-9)
    assert held.parts["bias"] == 0
