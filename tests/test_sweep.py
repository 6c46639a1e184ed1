"""A sweep: its combinations, its mistakes, and that it goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import sweep

ROOT = Path(__file__).parents[1]
RATES = "--grid.optimizer.learning_rate=0.001,0.002"


def parsed(*words):
    return sweep.parse(["--config=configs/points.py", "--workdir=sweep", *words])


def test_every_combination_is_a_run():
    _, runs, common = parsed(
        RATES, "--grid.network.sizes=(1,2),(3,)", "--config.train.num_steps=5"
    )
    assert common == ["--config.train.num_steps=5"]
    assert [tuple(run.values.values()) for run in runs] == [
        ("0.001", "(1,2)"),
        ("0.001", "(3,)"),
        ("0.002", "(1,2)"),
        ("0.002", "(3,)"),
    ]
    assert len({run.workdir for run in runs}) == 4
    name = "optimizer.learning_rate=0.001,network.sizes=_1_2_"
    assert runs[0].workdir == Path("sweep") / name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give at least one --grid"),
        (["--grid.seed"], "expected --grid.section.field=value"),
        (["--grid.seed="], "expected --grid.section.field=value"),
        (["--grid.seed=0", "--grid.seed=1"], "--grid.seed is given twice"),
        (["--grid.seed=0,0"], "would share the folder sweep/seed=0"),
        (["--grid.extra.a=x/y,x_y"], "would share the folder sweep/extra.a=x_y"),
        ([RATES, "--config.optimizer.learning_rate=1"], "and is swept as well"),
        (["--learning_rate=1"], "expected --grid.section.field=value"),
        ([RATES, "--jobs=0"], "--jobs is 0"),
        ([RATES, "--task=2"], "--task is 2; it must be from 0 to 1"),
    ],
)
def test_mistakes_are_answered_at_once(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        parsed(*words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_mistake_in_the_last_config_is_found_before_the_first_trains(
    tmp_path, capsys
):
    words = ["--config=configs/points.py", f"--workdir={tmp_path}"]
    assert sweep.main([*words, "--grid.network.width=8,-8"]) == 2
    assert "network.width=-8: 1 problem in the config" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_config_file_lists_its_own_runs(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs import points\nget_config = points.get_config\n"
        "def sweep():\n"
        "    for rate in (0.001, 2e-05):\n"
        "        yield {'optimizer.learning_rate': rate, 'config.seed': 3}\n"
        "    yield {'network.name': 'mlp', 'extra.note': 'a/b, c', 'extra.on': True}\n"
        "    yield {}\n"
    )
    words = [f"--config={file}", "--workdir=sweep"]
    _, runs, _ = sweep.parse(words)
    assert [run.values for run in runs] == [
        {"optimizer.learning_rate": "0.001", "seed": "3"},
        {"optimizer.learning_rate": "2e-05", "seed": "3"},
        {"network.name": "mlp", "extra.note": "a/b, c", "extra.on": "True"},
        {},
    ]
    assert [run.workdir.name for run in runs] == [
        "optimizer.learning_rate=0.001,seed=3",
        "optimizer.learning_rate=2e-05,seed=3",
        "network.name=mlp,extra.note=a_b__c,extra.on=True",
        "unchanged",
    ]
    _, runs, _ = sweep.parse([*words, "--grid.seed=0,1"])  # the grid goes first
    assert [run.values["seed"] for run in runs] == ["0", "1"]
    for text in ("1", "[{1: 2}]", "[3]", "{'seed': 1}", "[]"):
        file.write_text(f"def sweep(): return {text}\n")
        with pytest.raises(SystemExit):
            sweep.parse(words)
        assert "sweep()" in capsys.readouterr().err


def test_values_in_brackets_are_one_value_and_long_names_are_cut():
    _, runs, _ = parsed("--grid.extra.a=[1,2],{'b': (3, 4)},5")
    assert [run.values["extra.a"] for run in runs] == ["[1,2]", "{'b': (3, 4)}", "5"]
    _, runs, _ = parsed(f"--grid.extra.a={'x' * 300},{'x' * 299}y")
    assert all(len(run.workdir.name) < 200 for run in runs)
    assert len({run.workdir for run in runs}) == 2


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_to_its_table(tmp_path):
    command = [sys.executable, "-m", "experiments.sweep", f"--workdir={tmp_path}"]
    command += ["--config=configs/points.py", "--grid.seed=0,1", "--jobs=2"]
    command += ["--config.train.num_steps=400", "--config.train.log_every=20"]
    command += ["--config.sampling.num_samples=8", "--config.grid.num_steps=2"]
    first = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    files = [tmp_path / f"seed={seed}" / "metrics.jsonl" for seed in (0, 1)]
    deadline = time.monotonic() + 200
    while not all(f.exists() and f.read_text() for f in files):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGINT)
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 0
    assert said.count("stopped") >= 2
    second = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert second.returncode == 0, second.stderr
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [(r["seed"], r["state"], r["step"]) for r in rows] == [
        ("0", "trained", 400),
        ("1", "trained", 400),
    ]
    assert rows[0]["loss"] != rows[1]["loss"]
    assert "test_loss" in second.stdout
