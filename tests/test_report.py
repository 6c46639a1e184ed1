from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
from as_a_user import ROOT
from cases import GAUSSIAN

from experiments.launch import load_config
from score_sde import elbo
from score_sde.data import InMemory
from score_sde.evaluation.plots import save_bound
from score_sde.evaluation.report import (
    against_flow,
    bits,
    bound_by_level,
    error_budget,
    summary,
    table,
)
from score_sde.run.build import build
from score_sde.run.score import _repeating, _run
from score_sde.run.sections import complete
from score_sde.runtime.jobs import batches_of, parts_folder
from score_sde.runtime.mesh import local_mesh

STD = {"data": 0.3, "dequantisation": 0.2, "probe": 0.1}
SHIFT = 0.01


def solved(random, count, num_repeats, num_checked):
    """Scores with known variances of data, points and probes."""
    draw = lambda name, *shape: STD[name] * random.normal(size=shape)  # noqa: E731
    data = 2 + draw("data", count)
    points = draw("dequantisation", num_repeats, count)
    repeats = data[None] + points + draw("probe", num_repeats, count)
    some = slice(num_checked)
    return repeats, {
        "fresh_points": data[some]
        + draw("dequantisation", num_checked)
        + draw("probe", num_checked),
        "fresh_probes": data[some] + points[0, some] + draw("probe", num_checked),
        "tight": repeats[0, some] - SHIFT,
    }


@pytest.mark.parametrize("num_repeats", [1, 4])
def test_the_error_budget_finds_each_source(num_repeats):
    count = 20_000
    repeats, checks = solved(np.random.RandomState(0), count, num_repeats, count)
    values = repeats.mean(0)
    errors = error_budget(values, repeats[0], num_repeats=num_repeats, **checks)
    for name, std in STD.items():
        expected = std / np.sqrt(count)
        if name != "data":
            expected /= np.sqrt(num_repeats)
        # Variances of 20,000 numbers are known to 1 %, differences of them to 5 %.
        assert errors[name] == pytest.approx(expected, rel=0.05)
    assert errors["solver"] == pytest.approx(SHIFT, rel=1e-9)
    total = np.sqrt(sum(errors[name] ** 2 for name in STD))
    assert total == pytest.approx(values.std() / np.sqrt(count), rel=1e-3)


def arrays(nats, success=None):
    success = np.ones(len(nats), bool) if success is None else success
    return {"nats": nats, "success": success}


def test_few_jumps_stand_beside_the_flow_at_the_same_points():
    """What examples differ by cancels in the difference; what failed is left out."""
    random, num_dims, count = np.random.RandomState(0), 3, 400
    exact = random.normal(size=count)
    off = 0.02 + 0.01 * random.normal(size=count)
    to_nats = lambda bits: -bits * num_dims * np.log(2)  # noqa: E731
    good = np.arange(count) > 3
    scores = {
        "success": good,
        "repeats": (exact + off)[None],
        "bits_per_dim": exact + off,
        "bound": exact + 0.1,
        "num_evals": np.full(count, 4),
        "seconds": np.ones(count),
    }
    flow = {
        "nats": to_nats(exact),
        "success": np.arange(count) < count - 5,
        "num_evals": np.full(count, 90),
    }
    again = arrays(to_nats(exact + off)[:50], good[:50])
    checks = dict.fromkeys(("fresh_points", "fresh_probes", "tight"), again)
    row = summary(scores, checks, num_dims=num_dims, is_exact=False)
    row |= against_flow(row, scores, flow, num_dims) | {"seconds": 1.0}
    row["flow"]["of"] = "its teacher"
    compared = slice(4, count - 5)
    assert row["flow"]["compared"] == count - 9
    assert row["flow"]["difference"] == pytest.approx(off[compared].mean())
    spread = off[compared].std(ddof=1) / np.sqrt(count - 9)
    assert row["flow"]["difference_standard_error"] == pytest.approx(spread)
    assert row["standard_error"] > 20 * spread
    assert set(row["errors"]) == {"data", "dequantisation"}
    assert row["bound_above"]
    text = table({"test": row})
    assert "bits/dim by 4 jumps (data" in text
    assert "+0.0189 +- 0.0005 from the flow of its teacher" in text
    assert "in 90 evaluations, 391 examples" in text
    assert "no upper limit" not in text
    assert "of each example 2 numbers take" in table({"test": row | {"repeating": 2}})


def test_numbers_that_repeat_are_counted_where_a_density_is_scored():
    values = np.random.RandomState(0).normal(size=(50, 3)).astype(np.float32)
    values[:, 1] = 7
    points, images = (
        SimpleNamespace(stored=SimpleNamespace(num_levels=n)) for n in (None, 17)
    )
    assert _repeating(points, InMemory(values), 50) == 1
    assert _repeating(images, InMemory(values), 50) == 0


@pytest.mark.parametrize("name", ["digits:wavelet_coarse", "digits:wavelet_details"])
def test_parts_of_levels_are_not_taken_for_repeating_points(name):
    dataset = build(complete(load_config(name, ROOT))).scored
    assert dataset.num_levels is None
    assert _repeating(dataset, dataset.test, 300) == 0


def test_failures_are_left_out_and_exact_repeats_are_weighted():
    """Importance weights: the mean of the probabilities, here of 1/2 and 1/8."""
    num_dims, count = 2, 6
    repeats = np.tile(np.asarray([[0.5], [1.5]]), (1, count))  # bits/dim
    success = np.arange(count) != 1
    scores = {
        "bits_per_dim": repeats.mean(0) + np.where(success, 0, np.nan),
        "repeats": repeats,
        "success": success,
        "bound": np.full(count, 1.2),
        "num_evals": np.full(count, 50),
        "seconds": np.full(count, 0.25),
    }
    nats = -repeats[0] * num_dims * np.log(2)
    checks = {n: arrays(nats) for n in ("fresh_points", "fresh_probes", "tight")}
    row = summary(scores, checks, num_dims=num_dims, is_exact=True)
    assert (row["scored"], row["failed"]) == (5, 1)
    assert row["bits_per_dim"] == 1.0
    assert row["bound_above"]
    assert row["images_per_second"] == 4.0
    mean_probability = (2.0**-1 + 2.0**-3) / 2
    assert row["importance_weighted"] == pytest.approx(-np.log2(mean_probability) / 2)
    random = summary(scores, checks, num_dims=num_dims, is_exact=False)
    assert "importance_weighted" not in random


def test_bits_are_log2_per_dimension():
    np.testing.assert_allclose(bits(np.asarray([-3 * np.log(8)]), 3), [3.0])


def test_every_batch_is_one_hosts():
    for hosts in (1, 2, 3):
        shares = [list(batches_of(7, host, hosts)) for host in range(hosts)]
        assert sorted(sum(shares, [])) == list(range(7))


def test_an_interrupted_job_goes_on_and_scores_every_example_once(tmp_path):
    Scores = namedtuple("Scores", ["value"])
    settings = SimpleNamespace(batch_size=4)
    experiment = SimpleNamespace(
        seed=0, likelihood=settings, model=SimpleNamespace(conditions=())
    )
    values, calls = np.arange(10), []

    def score(keys, values, labels, stop_at=None):
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append(values)
        return Scores(2 * values)

    def run(score):
        path, mesh = tmp_path / "part", local_mesh()
        data = InMemory(values)
        return _run(experiment, data, mesh, score, 10, path, what="a pass")

    with pytest.raises(KeyboardInterrupt):
        run(lambda *batch: score(*batch, stop_at=2))
    out = run(score)
    assert [len(batch) for batch in calls] == [4, 4, 4]  # the last one padded
    np.testing.assert_array_equal(out["value"], 2 * values)
    assert out["seconds"].shape == (10,)
    assert len(run(score)["value"]) == 10
    assert len(calls) == 3


def test_parts_of_another_job_are_dropped(tmp_path):
    folder = parts_folder(tmp_path / "parts", {"step": 1})
    (folder / "test_repeat0_000000.npz").touch()
    assert list(parts_folder(folder, {"step": 1}).glob("*.npz"))
    assert not list(parts_folder(folder, {"step": 2}).glob("*.npz"))


@pytest.mark.slow
def test_the_rate_of_a_gaussian_is_its_rate_and_the_plots_are_drawn(tmp_path, key):
    """Down to level s it takes the information that x0 + s eps has of x0."""
    x0 = GAUSSIAN.sample(key, 4_000)
    bound = elbo.continuous_bound(
        key, GAUSSIAN.denoise, x0, sigma_min=0.05, sigma_max=50.0, num_draws=200
    )
    scores = {f"bound_{n}": np.asarray(a) for n, a in bound._asdict().items()}
    levels = bound_by_level(scores | {"success": np.ones(4_000, bool)}, 4)
    c = np.linalg.eigvalsh(GAUSSIAN.covariance())[None]
    sigma = levels["sigma"][:, None]
    information = 0.5 * np.log2(1 + c / sigma**2).mean(1)
    # The stratum that a level is drawn in counts whole: 1/200 of the range, 0.04 bits;
    # and 4,000 draws.
    np.testing.assert_allclose(levels["rate"], information, atol=0.06)
    error = np.sqrt((c * sigma**2 / (c + sigma**2)).mean(1))
    np.testing.assert_allclose(levels["distortion"], error, rtol=0.05)
    save_bound(tmp_path, levels)
    for name in ("loss_by_level.png", "rate_distortion.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
