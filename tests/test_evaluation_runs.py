"""What a run is measured by: trained classifiers, references, devices, comparisons."""

import copy
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from PIL import Image

from configs import digits, points
from experiments import evaluate, reference_stats
from experiments.launch import Command
from score_sde.data import DATASETS
from score_sde.evaluation import (
    FEATURES,
    classifier,
    frechet_by_number,
    frechet_distance,
)
from score_sde.evaluation.classifier import full_range
from score_sde.evaluation.extractor import BATCH
from score_sde.evaluation.plots import save_evaluation
from score_sde.run import by_steps, extraction
from score_sde.run.build import build
from score_sde.run.evaluate import make_measure, measure
from score_sde.run.extraction import in_parts, open_features, values_of
from score_sde.run.in_training import make_evaluate
from score_sde.run.measured import of_samples, table
from score_sde.run.sections import complete
from score_sde.runtime.mesh import local_mesh
from score_sde.types import UserError

pytestmark = pytest.mark.usefixtures("standard_promotion")
OPTIONS = {"num_steps": 300, "width": 16, "learning_rate": 0.01}
FEW_STEPS = {"name": "classifier", **OPTIONS}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of this module's own, where classifiers are kept."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def config_of(**sections):
    """The config of digits with these sections, complete."""
    config = copy.deepcopy(digits.get_config().to_dict())
    metrics = {"frechet_distance": {}, "class_statistics": {}}
    config |= {"features": FEW_STEPS, "metrics": metrics, **sections}
    return complete(config)


@pytest.fixture(scope="module")
def experiment(cache):
    return build(config_of())


@pytest.fixture(scope="module")
def extract(cache):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return FEATURES["classifier"](dataset=DATASETS["digits"](), **OPTIONS)


def test_a_classifier_is_trained_once_and_knows_held_out_digits(extract, monkeypatch):
    data = DATASETS["digits"]()
    test = full_range(data.test.values, data.num_levels)
    logits = extract.logits(test)
    assert logits.shape == (360, 10)
    assert np.mean(logits.argmax(1) == data.test.labels) > 0.9
    features = extract(test)
    assert features.shape == (360, 16)
    assert features.dtype == np.float32
    assert len(extract.identity["weights"]) == 64
    monkeypatch.setattr(classifier, "_fit", None)  # it is read, not trained
    again = FEATURES["classifier"](dataset=data, **OPTIONS)
    assert again.identity == extract.identity
    np.testing.assert_array_equal(again(test[:5]), features[:5])
    with pytest.raises(TypeError):  # other settings, which are trained
        FEATURES["classifier"](dataset=data, **OPTIONS | {"seed": 7})


def test_a_damaged_classifier_is_trained_again(cache, extract, monkeypatch):
    (kept,) = (cache / "score_sde" / "classifiers").glob("*.npz")
    before = kept.read_bytes()
    trained = []
    monkeypatch.setattr(
        classifier, "_fit", lambda m, like, *_: trained.append(1) or _zeros(like)
    )
    with np.load(kept) as file:
        arrays = dict(file)
    name = next(n for n in arrays if n.startswith("["))
    for damaged in (before[: len(before) // 2], None):
        if damaged is None:
            np.savez(kept, **{**arrays, name: arrays[name] + 1})
        else:
            kept.write_bytes(damaged)
        made = FEATURES["classifier"](dataset=DATASETS["digits"](), **OPTIONS)
        assert made.identity["weights"] != extract.identity["weights"]
    assert len(trained) == 2
    kept.write_bytes(before)


def _zeros(like):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), like)


def test_data_without_labels_train_no_classifier():
    config = copy.deepcopy(points.get_config().to_dict())
    config = complete(config | {"features": FEW_STEPS})
    with pytest.raises(UserError, match="has no labels to train one on: choose"):
        open_features(build(config), config)


def test_held_out_digits_are_measured_like_training_digits(experiment, tmp_path):
    config = config_of()
    samples = experiment.dataset.test.values
    found = measure(experiment, config, samples, tmp_path)
    report = json.loads(json.dumps(found.report()))
    assert report["features"]["weights"]
    assert report["reference"]["number"] == 1437
    assert found.text == "1,437 examples of digits, train split"
    rows = report["metrics"]["class_statistics"]
    assert sum(rows["arrays"]["samples"]["counts"]) == 360
    assert rows["samples"]["sure"]["counts"]["num_fake"] == 360
    distance = report["metrics"]["frechet_distance"]
    value = distance["samples"]["value"]
    assert value["low"] <= value["value"] <= value["high"]
    text = table(report["metrics"])
    assert "class_statistics.counts" in text
    assert "floor" in text
    # As training measures.
    measured = make_measure(experiment, config)(samples)
    assert measured.keys() > {"frechet_distance", "class_statistics.sure"}
    assert measured["frechet_distance"] == pytest.approx(value["value"], rel=1e-9)
    assert measured["frechet_distance.high"] == pytest.approx(value["high"], rel=1e-9)
    sure = rows["samples"]["sure"]
    assert measured["class_statistics.sure.low"] == pytest.approx(sure["low"])
    # Nearest training examples, and the same again without files of parts.
    assert found.neighbours.shape == (12, 3)
    assert sorted(p.name for p in tmp_path.glob("*.npz")) == [
        *("samples_000000.npz", "train_000000.npz", "train_000001.npz")
    ]
    again = measure(experiment, config, samples)
    assert again.metrics == found.metrics
    np.testing.assert_array_equal(again.neighbours, found.neighbours)


def test_a_metric_of_logits_needs_a_classifier():
    config = config_of(features={"name": "values"})
    experiment = build(config)
    with pytest.raises(
        UserError, match="'values' have no logits, which a metric reads"
    ):
        measure(experiment, config, experiment.dataset.test.values[:20])


OF_COPIES = {
    "features": {"name": "values"},
    "metrics": {"memorisation": {}, "authenticity": {}},
}


@pytest.mark.parametrize("against", ["train", "test"])
def test_copies_of_training_digits_are_found_whatever_they_are_held_against(against):
    config = config_of(**OF_COPIES, evaluation={"against": against, "num_shown": 0})
    experiment = build(config)
    copies = experiment.dataset.train.values
    found = measure(experiment, config, copies)
    rows = found.metrics["memorisation"]["samples"]["value"]
    assert rows["value"] == 1
    assert rows["parts"]["expected"] == 1437 / (1437 + 360)
    assert rows["counts"] == {
        **{"num_real": 1437, "num_fake": 1437, "dims": 64},
        "num_held_out": 360,
    }
    assert "floor" not in found.metrics["memorisation"]
    assert found.metrics["authenticity"]["samples"]["value"]["value"] == 0
    assert "expected 0.7997 (train split)" in table(found.metrics)
    # As in training; and what is no copy is told from it.
    measured = make_measure(experiment, config)
    assert measured(copies)["memorisation"] == 1
    fresh = measured(experiment.dataset.test.values)
    assert fresh["memorisation"] == 0
    assert fresh["authenticity"] > 0.3


def test_copies_are_found_beside_a_file_of_moments_alone(tmp_path):
    values = full_range(DATASETS["digits"]().test.values, 17)
    flat = FEATURES["values"]()(values)
    np.savez(tmp_path / "some.npz", mu=flat.mean(0), sigma=np.cov(flat.T))
    reference = {"reference": str(tmp_path / "some.npz"), "num_shown": 0}
    config = config_of(**OF_COPIES, evaluation=reference)
    experiment = build(config)
    found = measure(experiment, config, experiment.dataset.train.values[:50])
    assert not found.skipped
    assert found.metrics["memorisation"]["samples"]["value"]["value"] == 1


def test_too_few_samples_are_refused_by_the_name_of_their_field():
    config = config_of(features={"name": "values"}, metrics={"frechet_distance": {}})
    experiment = build(config)
    values = experiment.dataset.test.values
    with pytest.raises(UserError, match=r"1 samples .* sampling\.num_samples"):
        measure(experiment, config, values[:1])
    with pytest.raises(UserError, match="no sample to measure"):
        measure(experiment, config, values[:0])


def test_parts_that_another_network_left_are_not_gone_on_from(
    experiment, tmp_path, monkeypatch
):
    arrays = {
        "samples": experiment.dataset.test.values[:60],
        "success": np.ones(60, bool),
    }
    monkeypatch.setattr(evaluate, "drawn", lambda run, workdir: arrays)

    def interrupt(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("score_sde.run.evaluate._curve", interrupt)

    def features_left(experiment):
        run = SimpleNamespace(experiment=experiment, config=config_of())
        with pytest.raises(KeyboardInterrupt):
            evaluate._measured(run, tmp_path, {"step": (1,)}, tmp_path / "report.json")
        (part,) = (tmp_path / "evaluation_parts").glob("samples_*.npz")
        with np.load(part) as file:
            return part.stat().st_mtime_ns, file["features"]

    first, again = features_left(experiment), features_left(experiment)
    assert first[0] == again[0]  # it was read, not made
    # The cache is lost, and its classifier is another under the same causes.
    lost = build(config_of(features=FEW_STEPS | {"num_steps": 1}))
    assert not np.array_equal(features_left(lost)[1], first[1])


def test_a_warning_of_the_floor_is_printed_too():
    config = config_of(
        features={"name": "values"},
        metrics={"frechet_distance": {}},
        evaluation={"num_real": 100, "num_shown": 0},
    )
    experiment = build(config)
    found = measure(experiment, config, experiment.dataset.test.values)
    (line,) = (t for t in table(found.metrics).splitlines() if "WARNING" in t)
    assert line.startswith("  WARNING of the floor: n = 50 examples are no more than")


def test_a_report_says_which_samples_and_which_average_were_measured():
    config = config_of()
    arrays = {
        "success": np.array([True, True, False, True]),
        "labels": np.array([3, 1, 1, 3]),
    }
    found = of_samples(config, {"data": {}}, arrays)
    assert found == {
        "number": 3,
        "failed": 1,
        "average": {
            name: config["train"][name]
            for name in ("ema_halflife_steps", "ema_rampup_ratio")
        },
        "labels": {"1": 1, "3": 2},
    }
    of_width = {"average": {"relative_width": 0.05, "step": 10}}
    found = of_samples(config, of_width, {"success": arrays["success"]})
    assert found["average"] == of_width["average"]
    assert "labels" not in found
    assert of_samples(config, {}, arrays)["average"].startswith("unknown origin")


def written_reference(folder, **sections):
    reference_stats.main(Command(config_of(**sections), folder, False))
    return str(folder / "reference.npz")


def test_statistics_of_a_split_give_the_number_of_its_examples(
    experiment, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(extraction, "BATCH", 200)
    monkeypatch.setattr("score_sde.run.reference.BATCH", 100)
    monkeypatch.setattr("score_sde.run.reference.BATCHES", 4)
    path = written_reference(tmp_path)
    assert (
        "1,437 examples, 16 features of digits, train split" in capsys.readouterr()[0]
    )
    samples = experiment.dataset.test.values
    whole = measure(experiment, config_of(), samples).metrics["frechet_distance"]
    config = config_of(evaluation={"reference": path, "num_shown": 0})
    found = measure(build(config), config, samples)
    value = found.metrics["frechet_distance"]["samples"]["value"]["value"]
    expected = whole["samples"]["value"]["value"]
    assert value == pytest.approx(expected, rel=1e-9)
    assert "floor" not in found.metrics["frechet_distance"]
    assert "has moments alone" in found.skipped["class_statistics"]
    assert found.neighbours is None
    assert found.reference["origin"]["split"] == "train"
    # It is left as it is by the same, and made anew by anything else.
    before = (tmp_path / "reference.npz").stat().st_mtime_ns
    written_reference(tmp_path)
    assert (tmp_path / "reference.npz").stat().st_mtime_ns == before
    written_reference(tmp_path, evaluation={"against": "test"})
    assert "360 examples" in capsys.readouterr()[0]


def test_a_reference_of_other_features_is_refused_in_one_line(tmp_path, extract):
    path = written_reference(tmp_path, features=FEW_STEPS | {"num_steps": 1})
    config = config_of(evaluation={"reference": path})
    experiment = build(config)
    with pytest.raises(UserError) as error:
        measure(experiment, config, experiment.dataset.test.values[:60])
    text = str(error.value)
    assert "\n" not in text
    assert f"evaluation.reference is {path!r}: can't be compared" in text
    assert text.count("features with weights") == 2
    assert extract.identity["weights"][:12] in text
    assert "reference-stats" in text


def test_a_reference_of_guided_diffusion_brings_its_images(tmp_path):
    values = DATASETS["digits"]().train.values[:100]
    images = full_range(values, 17)
    flat = FEATURES["values"]()(images)
    path = tmp_path / "reference.npz"
    np.savez(path, mu=flat.mean(0), sigma=np.cov(flat.T), arr_0=images)
    config = config_of(
        features={"name": "values"},
        metrics={"precision_recall": {}, "frechet_distance": {"level": None}},
        evaluation={"reference": str(path), "num_shown": 0},
    )
    found = measure(build(config), config, values)
    assert found.metrics["precision_recall"]["samples"]["precision"]["value"] == 1
    assert found.metrics["frechet_distance"]["samples"]["value"]["value"] < 1e-3
    assert found.reference["origin"] == "unknown origin, taken on trust"
    assert "taken on trust" in found.text


# One number on any number of devices, hosts, and batches


def one_device():
    axes = ("data", "fsdp", "tensor")
    return jax.make_mesh(
        (1, 1, 1), axes, (AxisType.Auto,) * 3, devices=jax.local_devices()[:1]
    )


def test_features_do_not_depend_on_the_number_of_devices(extract, monkeypatch):
    assert jax.local_device_count() == 4
    data = DATASETS["digits"]()
    train, test = (full_range(s.values, 17) for s in (data.train, data.test))
    many = frechet_distance(extract(train), extract(test))
    monkeypatch.setattr("score_sde.runtime.mesh.local_mesh", one_device)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    alone = FEATURES["classifier"](dataset=data, **OPTIONS)
    single = [alone(train), alone(test)]
    one = frechet_distance(*single)
    assert one.value == pytest.approx(many.value, rel=1e-9)
    assert one.low == pytest.approx(many.low, rel=1e-9)
    # As do not how many come at once, and where the batches begin.
    pieces = [np.concatenate([extract(p) for p in np.split(test, [3, 10, 99])])]
    other = frechet_distance(single[0], pieces[0])
    assert other.value == pytest.approx(many.value, rel=1e-9)
    assert BATCH["cpu"] == 4


def test_parts_of_two_hosts_make_the_features_of_one(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "BATCH", 50)
    opened = open_features(experiment, config_of())
    values = values_of(experiment.dataset.test)
    alone = in_parts(None, 360, values, opened, logits=True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for host in (1, 0):  # the other's files are there when host 0 reads them
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        if host:
            with pytest.raises(FileNotFoundError):
                in_parts(tmp_path / "some", 360, values, opened, logits=True)
            assert len(list(tmp_path.glob("some_*"))) == 4
    both = in_parts(tmp_path / "some", 360, values, opened, logits=True)
    for name in ("features", "logits"):
        np.testing.assert_array_equal(both[name], alone[name])


# The picture


def picture_of(path, neighbours, curve):
    values = DATASETS["digits"]().train.values
    save_evaluation(
        path,
        samples=values[:3],
        neighbours=None if neighbours is None else values[neighbours],
        num_levels=17,
        curve=curve,
        floor=0.1,
        caption="a caption",
    )
    if not path.exists():
        return None
    with Image.open(path) as picture:
        return picture.size


def test_the_picture_has_a_panel_for_neighbours_and_one_for_numbers(tmp_path):
    rng = np.random.default_rng(0)
    curve = frechet_by_number(
        rng.standard_normal((90, 2)), rng.standard_normal((60, 2))
    )
    near = np.arange(9).reshape(3, 3)
    wide = picture_of(tmp_path / "both.png", near, curve)
    for name, given in {"near": (near, None), "curve": (None, curve)}.items():
        one = picture_of(tmp_path / f"{name}.png", *given)
        assert (2 * one[0], one[1]) == wide
    assert picture_of(tmp_path / "none.png", None, None) is None


# In training, and by numbers of steps


def test_metrics_of_too_few_samples_end_training_before_it_begins(cache, tmp_path):
    config = config_of(metrics={"precision_recall": {}}, evaluation={"in_training": 2})
    with pytest.raises(UserError, match="metrics.precision_recall: .* has 2 examples"):
        make_evaluate(build(config), config, tmp_path, local_mesh(), lambda *a: 0)
    config = config_of(
        objective={"name": "classification"},
        network={"name": "classifier"},
        evaluation={"in_training": 2},
    )
    del config["weight"]
    with pytest.raises(UserError, match="'classification' trains nothing that draws"):
        make_evaluate(build(config), config, tmp_path, local_mesh(), lambda *a: 0)


def test_steps_of_stated_levels_are_every_second_or_third_of_them():
    config = {"grid": {"name": "levels", "sigmas": (80.0, 14.0, 2.5, 0.4)}, "seed": 0}
    for count, left in ((1, (80.0,)), (2, (80.0, 2.5)), (4, (80.0, 14.0, 2.5, 0.4))):
        assert by_steps.with_steps(config, count)["grid"]["sigmas"] == left
    with pytest.raises(UserError, match="has 3; it must divide the 4 levels"):
        by_steps.with_steps(config, 3)
    by_number = {"grid": {"name": "karras", "num_steps": 18}}
    assert by_steps.with_steps(by_number, 5)["grid"] == {
        "name": "karras",
        "num_steps": 5,
    }
    assert by_number["grid"]["num_steps"] == 18


def test_quality_by_steps_is_a_column_for_each_count():
    def row(count, distance):
        near = {"fd": distance, "fd.low": 0.0, "fd.high": 2 * distance, "counts": 3}
        return {
            "num_steps": count,
            "num_evals": 2 * count,
            "failed": 0,
            "metrics": near,
        }

    assert by_steps.table([row(5, 0.5), row(10, 0.25)]).splitlines() == [
        "steps        5           10",
        "evaluations  10          20",
        "failed       0           0",
        "fd           0.5 [0, 1]  0.25 [0, 0.5]",
    ]
