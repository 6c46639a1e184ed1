"""Cascades: stages that suit each other, their samples, costs and likelihoods."""

import copy
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import launch
from experiments.import_weights import default_config
from score_sde.evaluation.report import bits
from score_sde.networks import count_parameters
from score_sde.run import build, cascade, train
from score_sde.run.companions import NOTHING, config_of
from score_sde.run.model import noise_of_rows
from score_sde.run.open import Run
from score_sde.run.sample import as_stage, sample_keys, told_samples
from score_sde.run.score import Passes, compile_programs, pass_over, score_split
from score_sde.run.sections import complete
from score_sde.run.settings import Companion
from score_sde.run.super_resolution import beside_truth
from score_sde.runtime.mesh import local_mesh
from score_sde.types import UserError
from score_sde.weights.published import PUBLISHED

CONFIGS = Path(__file__).parents[1] / "configs"
EARLIER = "low_resolution"


def config_with(stem, **fields):
    """A complete config with section__field=value."""
    config = complete(copy.deepcopy(launch.load_config(stem, CONFIGS)))
    for path, value in fields.items():
        *parents, last = path.split("__")
        holder = config
        for part in parents:
            holder = holder.setdefault(part, {})
        holder[last] = value
    return config


@pytest.fixture
def stage(tmp_path):
    """A folder with the config of a first stage, as far as `build` reads it."""

    def make(stem="digits:small", **fields):
        folder = tmp_path / stem.replace(":", "_")
        folder.mkdir(exist_ok=True)
        config = config_with(stem, **fields)
        (folder / "config.json").write_text(json.dumps(config))
        return {EARLIER: {"run": str(folder)}}

    return make


def problems_of(config):
    with pytest.raises(build.ConfigError) as error:
        build.build(config)
    return "\n".join(error.value.problems)


# Configs.


def test_stages_that_belong_together_build(stage):
    made = build.build(config_with("digits:super_resolution", companions=stage()))
    assert made.companions[EARLIER].run
    wavelets = stage("digits:wavelet_coarse")
    build.build(config_with("digits:wavelet_details", companions=wavelets))


def test_a_run_that_draws_other_pictures_is_refused(stage):
    other = stage(data__num_levels=17)
    text = problems_of(config_with("digits:super_resolution", companions=other))
    assert "draws (4, 4, 1) with 17 levels" in text
    assert "tells (4, 4, 1) with 65" in text
    text = problems_of(config_with("digits:wavelet_details", companions=stage()))
    assert "beside the coarse image of shape (4, 4, 1), of source 'wavelet'" in text
    text = problems_of(config_with("digits", companions=stage()))
    assert "this run is told no small picture" in text
    alone = {EARLIER: {"run": "nowhere"}}
    text = problems_of(config_with("digits:super_resolution", companions=alone))
    assert "companions.low_resolution: no run in nowhere" in text


def test_what_else_is_told_must_be_stated(stage):
    vector = {"attributes": ("ink", "slant")}
    config = config_with(
        "digits:super_resolution", companions=stage(), conditions__vector=vector
    )
    assert "can't be that of held-out images" in problems_of(config)
    config["conditions"]["vector"]["samples"] = (0.3, 0.1)
    build.build(config)


def test_all_parts_of_an_image_are_of_the_same_points():
    stem, field = "digits:wavelet_coarse", "likelihood__dequantisation"
    text = problems_of(config_with(stem, data__points="variational"))
    assert "data.points is 'variational'; it is for images of levels" in text
    for points, others in (("uniform", "truncated_normal"), ("centres", "uniform")):
        fields = {"data__points": points, field: others}
        text = problems_of(config_with(stem, **fields))
        assert f"trained on '{points}' points is scored at" in text
    text = problems_of(config_with("digits:wavelet_coarse", conditions__coarse={}))
    assert "it is for details of images" in text


def test_changes_of_a_stage_are_those_of_its_config(stage):
    (where,) = stage().values()
    changes = {
        "grid": {"num_steps": 7},
        "sampler": {"name": "euler"},
        "companions": {EARLIER: {"run": "elsewhere"}},
    }
    config = config_of(Companion(**where, changes=changes))
    assert config["grid"] == {"name": "karras", "num_steps": 7, "rho": 7.0}
    # Another alternative begins at its own defaults.
    assert config["sampler"]["name"] == "euler"
    assert config["sampler"]["s_churn"] == 0.0
    assert config["companions"][EARLIER]["run"] == "elsewhere"


# Sampling, without a network.


def test_a_coarse_image_is_drawn_with_the_noise_that_details_were_trained_beside():
    uniformly = {
        "data__points": "uniform",
        "likelihood__dequantisation": "uniform",
    }
    coarse, details, uniform = (
        build.build(config_with(f"digits:wavelet_{part}", **changes))
        for part, changes in (
            ("coarse", {}),
            ("details", {}),
            ("details", uniformly),
        )
    )
    sde, whole = coarse.model.sde, np.asarray(coarse.drawing.grid())
    noise = float(noise_of_rows(details.model)) / 2  # of means over four pixels
    assert float(sde.sigma(sde.t_min)) == pytest.approx(noise)
    sigmas = np.asarray(as_stage(coarse, details).drawing.grid())
    assert sigmas[-1] == pytest.approx(noise)
    np.testing.assert_allclose(sigmas[:-1], whole[whole > sigmas[-1]])
    assert as_stage(coarse, uniform) is coarse


def test_an_earlier_stage_stops_at_the_level_that_the_next_one_is_told(stage):
    told = {"level": 0.2, "truncated": True}
    later = build.build(
        config_with(
            "digits:super_resolution",
            companions=stage(),
            **{f"conditions__low_resolution__{k}": v for k, v in told.items()},
        )
    )
    first = build.build(config_with("digits:small"))
    sigmas = np.asarray(as_stage(first, later).drawing.grid())
    # 0.2 in the scale of 17 levels is this in that of 65.
    level = 0.2 / ((16 / 17) * (65 / 64))
    assert sigmas[-1] == pytest.approx(level)
    whole = np.asarray(first.drawing.grid())
    np.testing.assert_allclose(sigmas[:-1], whole[whole > level])
    assert as_stage(first) is first
    assert as_stage(first, first) is first
    # Pictures that end there are told with their noise, and no other is added.
    points = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 4, 4, 1)
    entry = told_samples(later, np.arange(1), points)["image"]
    shares = later.model.conditions[0].of_examples(
        {"values": np.zeros((1, 8, 8, 1), np.uint8)}
    )
    assert (shares["image"][..., 1] == 0).all()
    assert np.ptp(entry[..., 1]) == 0
    assert entry[0, 0, 0, 1] > 0
    black, white = (float(entry[0, i, i, 0]) for i in (0, -1))
    # The ends of 65 levels are those of 17: -1 and 1 lie a half bin of 65 beyond.
    beyond = (16 / 17) * (65 / 64)
    assert (black, white) == pytest.approx((-beyond, beyond), abs=1e-6)


def test_stages_draw_different_noise_and_the_same_classes():
    first, second = (jax.random.key_data(sample_keys(3, 5, 4, stage=s)) for s in (0, 1))
    assert (np.asarray(first) != np.asarray(second)).any(1).all()
    config = config_with("digits:super_resolution", conditions__label={})
    made = build.build(config)
    points = np.zeros((4, 4, 4, 1), np.float32)
    labels = np.asarray([7, 7, 1, 0], np.int32)
    cond = told_samples(made, np.arange(4), points, labels)
    np.testing.assert_array_equal(cond["label"], labels)
    assert cond["image"].shape == (4, 8, 8, 2)


# Likelihood, without a network.


def a_pass(nats, evals=10):
    nats = np.asarray(nats, np.float64)
    return {
        "nats": nats,
        "num_evals": np.full(len(nats), evals),
        "seconds": np.ones(len(nats)),
        "success": np.ones(len(nats), bool),
        "latent": np.zeros((len(nats), 3)),
    }


def test_log_densities_add_up_and_so_do_their_errors():
    random = np.random.default_rng(0)
    images, parts = random.normal(size=50), []
    for size, share in ((16, 0.3), (48, 0.7)):
        points = random.normal(size=(2, 50))
        passes = [-100 * share + share * images + 0.1 * p for p in points]
        terms = {
            "prior": np.full(50, 1.0),
            "steps": np.full((50, 4), 5.0),
            "decoder": np.full(50, 2.0),
        }
        again = {
            "fresh_points": a_pass(passes[1][:20]),
            "fresh_probes": a_pass(passes[0][:20]),
            "tight": a_pass(passes[0][:20] + 0.01),
        }
        parts.append(Passes([a_pass(passes[0])], again, terms, size))
    total = cascade.in_all_stages(parts, 64)
    experiment = build.build(config_with("digits:wavelet_details"))
    scores, row = score_split(experiment, total)
    nats = sum(p.repeats[0]["nats"] for p in parts)
    np.testing.assert_allclose(scores["bits_per_dim"], bits(nats, 64))
    assert row["evaluations"] == 20
    np.testing.assert_allclose(scores["bound"], bits(np.full(50, -46.0), 64))
    # The stages share the images: their spread is that of the sum, not of both apart.
    apart = [score_split(experiment, p)[1]["errors"]["data"] for p in parts]
    together = sum(e * n / 64 for e, n in zip(apart, (16, 48), strict=True))
    assert row["errors"]["data"] == pytest.approx(together, rel=0.05)
    squares = [
        (score_split(experiment, p)[1]["errors"]["dequantisation"] * n / 64) ** 2
        for p, n in zip(parts, (16, 48), strict=True)
    ]
    noise = row["errors"]["dequantisation"] ** 2
    assert noise == pytest.approx(sum(squares), rel=0.5)
    assert row["errors"]["solver"] == pytest.approx(bits(-0.02, 64).item(), rel=1e-6)


def bare(stem, earlier=None, **fields):
    """A run without parameters, for what needs none."""
    config = config_with(stem, **fields)
    return Run(config, build.build(config), 0, {}, "", NOTHING, earlier)


def test_examples_of_stages_must_be_pictures_of_each_other():
    cascade.check_pictures([bare("digits:small"), bare("digits:super_resolution")])
    coarse, details = bare("digits:wavelet_coarse"), bare("digits:wavelet_details")
    cascade.check_pictures([coarse, details])
    other = bare("digits:small", data__method="bicubic")
    where = {EARLIER: Companion(run="runs/other")}
    later = bare("digits:super_resolution")
    changed = later.experiment._replace(companions=where)
    later = dataclasses.replace(later, experiment=changed)
    with pytest.raises(UserError, match="runs/other are not the small pictures"):
        cascade.check_pictures([other, later])


def test_stages_must_be_scored_at_the_same_points():
    last = bare("digits:wavelet_details", sde__t_min=0.02, seed=3)
    half = bare("digits:wavelet_coarse", sde__t_min=0.01)
    stages = cascade.scored_stages(dataclasses.replace(last, earlier=half))
    assert [stage.seed for stage in stages] == [3, 3]
    uniform = {"data__points": "uniform", "likelihood__dequantisation": "uniform"}
    others = {
        "with noise 0.04": bare("digits:wavelet_coarse", sde__t_min=0.02),
        "at uniform points": bare("digits:wavelet_coarse", **uniform),
    }
    for said, other in others.items():
        with pytest.raises(UserError, match=said):
            cascade.scored_stages(dataclasses.replace(last, earlier=other))


# Whole cascades of tiny networks.

TINY = {
    "network__channels": 8,
    "network__multipliers": (1,),
    "grid__num_steps": 3,
    "sampling__num_samples": 6,
    "sampling__batch_size": 4,
    "likelihood__rtol": 0.1,
    "likelihood__atol": 0.1,
    "likelihood__batch_size": 6,
    "likelihood__num_checked": 2,
    "likelihood__bound_draws": 2,
    "likelihood__num_train": 0,
}


def tiny(stem, earlier=None, **fields):
    """A run with initial parameters."""
    run = bare(stem, earlier, **TINY, **fields)
    experiment = run.experiment
    if earlier is not None:
        where = {EARLIER: Companion(run="first")}
        experiment = experiment._replace(companions=where)
    params = train.initial_params(experiment)
    return dataclasses.replace(run, experiment=experiment, params=params)


PAIRS = (
    ("digits:small", "digits:super_resolution", 5),
    # Heun's method takes two evaluations in each step, and one in that to 0.
    ("digits:wavelet_coarse", "digits:wavelet_details", 4),
)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "last", "evals"), PAIRS)
def test_a_cascade_is_drawn_stage_by_stage_and_goes_on(first, last, evals, tmp_path):
    last = tiny(last, tiny(first))
    arrays, costs = cascade.draw_stages(last, tmp_path, local_mesh())
    assert [cost.run for cost in costs] == ["first", ""]
    assert [cost.num_evals for cost in costs] == [evals, 5]
    assert all(cost.gflop > 0 for cost in costs)
    assert arrays["earlier_0"].shape == (6, 4, 4, 1)
    # In Python, and whatever the batch.
    np.testing.assert_array_equal(last.sample(6).levels, arrays["levels"])
    np.testing.assert_array_equal(last.sample(2, first=3).levels, arrays["levels"][3:5])
    # What is done is not drawn again.
    (tmp_path / "samples_000001.npz").unlink()
    again, _ = cascade.draw_stages(last, tmp_path, local_mesh())
    np.testing.assert_array_equal(again["levels"], arrays["levels"])


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_a_cascade_is_scored_over_all_stages(tmp_path):
    """Where nothing is learned, D = skip x, and each flow is known."""
    last = tiny("digits:wavelet_details", tiny("digits:wavelet_coarse"))
    mesh, found = local_mesh(), []
    for number, (experiment, stage) in enumerate(
        zip(cascade.scored_stages(last), last.stages, strict=True)
    ):
        programs = compile_programs(experiment, mesh, {})
        place = tmp_path / str(number)
        found.append(
            pass_over(experiment, programs, stage.params, "test", 6, mesh, place)
        )
    scores, row = score_split(last.experiment, cascade.in_all_stages(found, 64))
    assert row["scored"] == 6
    nats = sum(p.repeats[0]["nats"] for p in found)
    np.testing.assert_allclose(scores["bits_per_dim"], bits(nats, 64), rtol=1e-6)
    assert 0 < row["bits_per_dim"] < 10


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_super_resolution_is_measured_beside_what_needs_no_model():
    run = tiny("digits:super_resolution")
    test = run.dataset.test
    rows = test[np.arange(20)]["values"]
    found = beside_truth(run.experiment, run.config, rows)
    assert found["samples"]["consistency"]["value"] < 1e-10
    assert found["samples"]["psnr"]["value"] == np.inf
    # Copies have exactly the small picture but for the rounding of their levels.
    assert found["nearest"]["consistency"]["root"] < 0.5
    assert found["nearest"]["psnr"]["value"] > 10
    assert "frechet_distance" in found["bicubic"]


# Published upsamplers.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stem", "name", "published"),
    [
        ("imagenet_upsampler", "guided-diffusion/64_256_upsampler", 312e6),
        ("imagenet_upsampler:512", "guided-diffusion/128_512_upsampler", 309e6),
    ],
)
def test_upsamplers_have_the_published_size(stem, name, published):
    """Dhariwal and Nichol 2021, table 12, in whole millions."""
    made = build.build(launch.load_config(stem, CONFIGS))
    imported = build.build(default_config({"network": name}))
    assert made.dataset.shape == imported.dataset.shape == PUBLISHED[name].shape
    sizes = [
        count_parameters(jax.eval_shape(lambda: train.initial_params(e))["network"])  # noqa: B023
        for e in (made, imported)
    ]
    assert sizes[0] == sizes[1]
    assert round(sizes[0] / 1e6) == published / 1e6
    params = jax.eval_shape(lambda: train.initial_params(imported))["network"]
    # Noise and variances come out for the three colours of x alone.
    assert params["in_conv"]["kernel"].shape == (3, 3, 6, 192)
    assert params["out_conv"]["kernel"].shape[-1] == 6


@pytest.mark.slow
def test_sr3_has_about_the_published_size():
    made = build.build(launch.load_config("ffhq128_sr3", CONFIGS))
    params = jax.eval_shape(lambda: train.initial_params(made))["network"]
    assert count_parameters(params) == pytest.approx(550e6, rel=0.01)
    # beta_1 = 1e-6 and beta_2000 = 1e-2 of the chain, as rates of its time.
    sde = made.model.sde
    step = float(sde.diffusion_squared(jnp.asarray(1.0))) / 2_000
    assert step == pytest.approx(1e-2, rel=1e-6)
