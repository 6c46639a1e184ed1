"""The script of the GPU half of the benchmarks in miniature, and all records."""

import importlib.metadata
import json
from pathlib import Path

import jax
import pytest

from benchmarks import gpu, record

ROOT = Path(__file__).parents[1]


def test_every_step_is_a_benchmark_and_has_a_miniature():
    for step in gpu.STEPS.values():
        assert (ROOT / f"benchmarks/{step.module}.py").is_file()
        assert step.small


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_step_leaves_its_record_and_is_not_run_again(tmp_path, capsys):
    assert gpu.run("dit", tmp_path, small=True) == 0
    rows = json.loads((tmp_path / "dit.json").read_text())["rows"]
    assert [row["remat"] for row in rows] == [False, True]
    assert all(row["tflops_per_second"] > 0 for row in rows)
    assert gpu.run("dit", tmp_path, small=True) == 0
    assert "dit              is there" in capsys.readouterr().out


def test_a_step_that_takes_too_long_is_ended_and_leaves_no_record(tmp_path, capsys):
    assert gpu.run("dit", tmp_path, small=True, limit=0.2) == gpu.TOO_LONG
    assert "ended after 0.2 s" in capsys.readouterr().out
    assert not (tmp_path / "dit.json").exists()


def test_every_record_says_where_and_when_it_was_made():
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        text = path.read_text()
        if '"--json"' in text:
            assert "record.write(" in text, path
            assert "record.circumstances(" in text, path
        if path.name != "record.py":
            assert "platform.machine()" not in text, path


def test_a_record_has_the_versions_of_what_it_names(tmp_path):
    record.write(None, {})
    record.write(tmp_path / "a.json", record.circumstances("optax") | {"rows": [1]})
    made = json.loads((tmp_path / "a.json").read_text())
    assert made["versions"]["optax"] == importlib.metadata.version("optax")
    assert made["versions"]["jax"] == jax.__version__
    assert made["rows"] == [1]
