"""What `experiments.status` says of runs in every state."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from experiments import status as program
from score_sde.run.status import read_status
from score_sde.runtime.lock import locked
from score_sde.runtime.progress import Progress, with_bar

ROWS = [
    {"step": 50, "loss": 0.5, "gradient_norm": 1.0, "images_per_second": 100.0},
    {"step": 100, "loss": None, "gradient_norm": None, "skipped": 3.0},
]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"train": {"num_steps": 200}}))
    return tmp_path


def test_a_reader_may_leave_before_the_end(run):
    """As `head` does: no traceback, and no other error hides behind it."""
    words = [sys.executable, "-m", "experiments.status", f"--workdir={run}"]
    place = Path(__file__).parents[1]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=place
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def trained_to(run, *names):
    for name in names:
        (run / "checkpoints" / name).mkdir(parents=True)
    lines = [json.dumps(row) for row in ROWS] + ['{"step": 1']  # being written
    (run / "metrics.jsonl").write_text("\n".join(lines))


def test_a_new_run(run):
    assert read_status(run).text().splitlines() == [
        f"{run}: not started, 0 of 200 steps",
        "checkpoints: none",
    ]


def test_a_run_that_stopped(run, capsys):
    trained_to(run, "50", "100", "80.corrupt", "foo")
    assert program.main([f"--workdir={run}"]) == 0
    said = capsys.readouterr().out
    assert f"{run}: stopped, 100 of 200 steps" in said
    assert "checkpoints: 50, 100" in said
    assert "damaged and set aside: 80.corrupt" in said
    assert "updates left out as not finite: 3" in said
    with Image.open(run / "status.png") as picture:
        assert len(picture.convert("L").histogram()) == 256


def test_a_run_that_is_written(run):
    trained_to(run, "50")
    with locked(run):
        assert read_status(run).state() == "running"
        assert "written by process" in read_status(run).text()
    assert read_status(run).state() == "stopped"


def test_a_run_that_is_done(run):
    trained_to(run, "200")
    assert read_status(run).state() == "trained"


def test_no_run_is_an_error(tmp_path, capsys):
    assert program.main([f"--workdir={tmp_path}"]) == 2
    assert f"no run in {tmp_path}" in capsys.readouterr().err
    assert list(Path(tmp_path).iterdir()) == []


class Screen(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, is_terminal):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_long_job_says_how_long_it_still_takes(is_terminal):
    """The first part compiles: 100 s; the others take 30 s each."""
    screen, now = Screen(is_terminal), [0.0]
    progress = Progress("samples", 5, stream=screen, clock=lambda: now[0])
    for part, seconds in enumerate((100, 30, 30, 30, 30), start=1):
        now[0] += seconds
        progress.part_done(part)
    lines = re.split(r"[\r\n]", screen.getvalue().strip())
    said = [tuple(re.findall(r"(\d/5)  (\S+) left", line)[0]) for line in lines]
    if is_terminal:
        rest = [("3/5", "1m00s"), ("4/5", "0m30s"), ("5/5", "0m00s")]
        assert said == [("1/5", "6m40s"), ("2/5", "1m30s"), *rest]
        assert screen.getvalue().endswith("\n")
    else:  # a line a minute at most, and none at the end
        assert said == [("1/5", "6m40s"), ("3/5", "1m00s")]


def test_a_bar_that_moves_by_many_parts_at_once_knows_the_time_of_one():
    """The first 16 of 64 were there before; the next 16 take 80 s, 5 s each."""
    screen, now = Screen(True), [0.0]
    progress = Progress("features", 64, stream=screen, clock=lambda: now[0])
    for passed, seconds in ((16, 5.0), (32, 80.0)):
        now[0] += seconds
        progress.part_done(passed)
    assert "32/64  2m40s left" in screen.getvalue()


def test_a_loop_with_a_bar_counts_a_part_once_it_is_over(monkeypatch):
    screen = Screen(True)
    monkeypatch.setattr("sys.stderr", screen)
    shown = []
    for part in with_bar("encoding", "abc"):
        shown.append((part, screen.getvalue().count("/3")))
    assert shown == [("a", 0), ("b", 1), ("c", 2)]
    assert "3/3" in screen.getvalue()
    assert list(with_bar("nothing", ())) == []


def test_a_short_job_leaves_no_line_in_a_log():
    screen = Screen(False)
    progress = Progress("samples", 2, stream=screen, clock=lambda: 1.0)
    progress.part_done(1)
    progress.part_done(2)
    assert not screen.getvalue()
