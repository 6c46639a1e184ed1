"""A run goes on with the config and the inputs that it was trained with."""

import copy
import json
from pathlib import Path

import jax
import pytest

from experiments.launch import load_config
from score_sde.run.build import build
from score_sde.run.open import open_run
from score_sde.run.same_run import FREE, check_same, describe
from score_sde.run.sections import SECTIONS, complete
from score_sde.runtime.folder import environment
from score_sde.types import UserError

INPUTS = {"data": {"digest": "abc", "train": 1437}, "companions": {}}


def config_with(**fields):
    config = complete(copy.deepcopy(load_config("digits", Path())))
    for path, value in fields.items():
        *parents, last = path.split("__")
        holder = config
        for part in parents:
            holder = holder[part]
        holder[last] = value
    return config


def check(folder, config, inputs=INPUTS, *, allow_change=False):
    experiment = build(config)
    return check_same(folder, config, experiment, inputs, allow_change=allow_change)


@pytest.fixture
def run(tmp_path):
    """A run that has made its first report."""
    describe(tmp_path, config_with(), INPUTS)
    (tmp_path / "metrics.jsonl").write_text('{"step": 50, "loss": 0.5}\n')
    return tmp_path


def test_a_run_records_its_config_its_inputs_and_its_environment(run):
    assert json.loads((run / "config.json").read_text())["seed"] == 0
    recorded = json.loads((run / "environment.json").read_text())
    assert recorded["packages"]["jax"] == jax.__version__
    assert recorded.keys() == environment().keys()
    assert check(run, config_with()) is None


def test_a_start_that_was_refused_binds_nobody(tmp_path):
    describe(tmp_path, config_with(), INPUTS)
    assert check(tmp_path, config_with(data__batch_size=32)) is None


@pytest.mark.parametrize("left", ["checkpoints/4", "checkpoints/4.corrupt"])
def test_a_checkpoint_binds_damaged_or_not(tmp_path, left):
    describe(tmp_path, config_with(), INPUTS)
    (tmp_path / left).mkdir(parents=True)
    with pytest.raises(UserError, match="data.batch_size: 64 -> 32"):
        check(tmp_path, config_with(data__batch_size=32))


def test_weights_of_an_unknown_training_are_trained_on(tmp_path):
    """Nobody knows on what data another program trained those that were imported."""
    describe(tmp_path, config_with(), {})
    (tmp_path / "checkpoints" / "0").mkdir(parents=True)
    assert check(tmp_path, config_with()) is None


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"network__channels": 16}, "network.channels: 32 -> 16"),
        ({"data__sigma_data": 0.5}, "data.sigma_data: 0.71 -> 0.5"),
        ({"data__batch_size": 32}, "data.batch_size: 64 -> 32"),
        ({"optimizer__b2": 0.9}, "optimizer.b2: 0.99 -> 0.9"),
        ({"train__ema_halflife_steps": 9.0}, "train.ema_halflife_steps: 200.0 -> 9.0"),
        # The rate of every step depends on how many there will be.
        ({"train__num_steps": 9_000}, "train.num_steps: 4400 -> 9000"),
        ({"seed": 1}, "seed: 0 -> 1"),
    ],
)
def test_what_would_change_what_it_learns_is_refused(run, fields, line):
    with pytest.raises(UserError, match="or on other data; use another") as error:
        check(run, config_with(**fields))
    assert line in str(error.value)
    # Nothing is written before it is known that the run goes on.
    assert json.loads((run / "config.json").read_text())["seed"] == 0
    assert line in check(run, config_with(**fields), allow_change=True)


def test_other_data_are_refused_by_their_content_not_their_place(run):
    assert check(run, config_with()) is None
    other = copy.deepcopy(INPUTS)
    other["data"]["digest"] = "xyz"
    with pytest.raises(UserError, match="inputs.data.digest: abc -> xyz"):
        check(run, config_with(), other)


def test_more_steps_are_welcome_where_the_schedule_does_not_know_them(run):
    describe(run, config_with(optimizer__schedule="constant"), INPUTS)
    longer = config_with(optimizer__schedule="constant", train__num_steps=9_000)
    assert check(run, longer) is None


def test_every_other_section_is_free_to_change(run):
    """And each free section or field exists."""
    config = config_with(sampler__s_churn=1.0, grid__num_steps=5, likelihood__repeats=2)
    assert check(run, config) is None
    for field in FREE:
        section, _, name = field.partition(".")
        assert section in SECTIONS or section == "extra"
        if name and "*" not in name and section != "data":
            assert name in config[section], field


def test_a_run_is_opened_on_examples_of_the_shape_that_it_was_trained_on(tmp_path):
    known = {**INPUTS, "data": {"format": {"shape": [8, 8, 1]}}}
    describe(tmp_path, config_with(), known)
    other = config_with(data={"name": "patches"})
    text = r"examples of shape \(8, 8, 1\); those of data.name 'patches' have \(32, 32"
    with pytest.raises(UserError, match=text):
        open_run(tmp_path, other)
