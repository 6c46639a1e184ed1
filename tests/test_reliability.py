"""Faults that a run survives: what they leave behind, and what it says."""

import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_sde.data.local import replaced
from score_sde.runtime import preemption
from score_sde.runtime.lock import locked
from score_sde.training.checkpoints import Checkpoints, SaveError
from score_sde.training.step import init_state
from score_sde.types import UserError

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.usefixtures("standard_promotion"),
    # Orbax leaves coroutines behind when it fails to read an array.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    gc.collect()


def state_at(step):
    params = {"w": jnp.arange(4096.0, dtype=jnp.float32) + step}
    state = init_state(params, optax.adam(0.1))
    return state._replace(step=jnp.asarray(step, jnp.int32))


@pytest.fixture
def saved(tmp_path):
    """A folder with good checkpoints of steps 3 and 5."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in (3, 5):
            checkpoints.save(state_at(step))
    return tmp_path


def restored(folder):
    with Checkpoints(folder) as checkpoints:
        state = checkpoints.restore(state_at(0))
    np.testing.assert_array_equal(
        state.params["w"], state_at(int(state.step)).params["w"]
    )
    return int(state.step)


def payload(step_folder):
    """The largest file of a checkpoint: arrays."""
    files = [p for p in step_folder.rglob("*") if p.is_file()]
    return max(files, key=lambda p: p.stat().st_size)


def damaged_newest(folder, capsys):
    assert restored(folder) == 3
    said = capsys.readouterr().err
    assert f"checkpoint {folder / '5'}" in said
    assert (folder / "5.corrupt").is_dir()  # set aside, not deleted
    # And the run goes on: a new checkpoint of that step can be written and read.
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(state_at(5))
    assert restored(folder) == 5


def test_who_reads_a_run_changes_nothing_in_it(saved, capsys):
    payload(saved / "5").write_bytes(b"")
    with Checkpoints(saved, create=False) as checkpoints:
        assert int(checkpoints.restore(state_at(0)).step) == 3
    assert f"checkpoint {saved / '5'}" in capsys.readouterr().err
    assert sorted(p.name for p in saved.iterdir()) == ["3", "5"]


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_found_and_the_older_checkpoint_taken(saved, place, capsys):
    path = payload(saved / "5")
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)
    damaged_newest(saved, capsys)


def test_a_truncated_file_is_found(saved, capsys):
    path = payload(saved / "5")
    path.write_bytes(path.read_bytes()[:100])
    damaged_newest(saved, capsys)


def test_lost_files_are_found_or_do_not_matter(saved):
    """Each file of the newest one emptied in turn: right arrays, or the older."""
    newest = saved / "5"
    files = sorted(p for p in newest.rglob("*") if p.is_file())
    assert len(files) > 3
    for file in files:
        relative, data = file.relative_to(newest), file.read_bytes()
        file.write_bytes(b"")
        step = restored(saved)
        if step == 3:
            (saved / "5.corrupt").rename(newest)
        (newest / relative).write_bytes(data)
    assert restored(saved) == 5


def test_foreign_files_are_ignored(saved):
    (saved / "99").mkdir()
    (saved / "foo").mkdir()
    (saved / "100.tmp").mkdir()
    (saved / "7").write_text("")
    assert restored(saved) == 5
    with Checkpoints(saved) as checkpoints:
        checkpoints.save(state_at(8))
        checkpoints.wait()
        assert checkpoints.steps() == [3, 5, 8]


def test_no_good_checkpoint_is_an_error_that_deletes_nothing(saved, capsys):
    for step in (3, 5):
        payload(saved / str(step)).write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint .* is good"):
        restored(saved)
    assert sorted(p.name for p in saved.iterdir()) == ["3.corrupt", "5.corrupt"]
    assert capsys.readouterr().err.count("moved to") == 2
    with (
        Checkpoints(saved) as checkpoints,
        pytest.raises(UserError, match="all checkpoints in .* are damaged"),
    ):
        checkpoints.newest_step()


def test_a_checkpoint_that_can_not_be_written_leaves_the_others(saved):
    """A file that may not grow, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(saved) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            checkpoints.save(state_at(8))
            message = rf"not be written to {saved}, .* that of step 5 is whole"
            with pytest.raises(SaveError, match=message):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        checkpoints.save(state_at(9))  # when there is space again
    assert restored(saved) == 9


def test_a_disk_without_space_is_noticed_before_writing(saved, monkeypatch):
    with Checkpoints(saved) as checkpoints:
        usage = shutil._ntuple_diskusage(total=10**9, used=10**9 - 1000, free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        # Parameters, average, two moments of 4,096 numbers; two counters.
        message = rf"no space .* of 65,544 bytes in {saved}, where 1,000 are free"
        with pytest.raises(SaveError, match=message):
            checkpoints.save(state_at(8))
    assert sorted(p.name for p in saved.iterdir()) == ["3", "5"]


def test_one_program_at_a_time_writes_a_run(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(
            UserError, match=f'another program writes .*"pid": {os.getpid()}'
        ),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):  # a lock that was left behind is free
        pass
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="--workdir: .*file: "),
        locked(tmp_path / "file"),
    ):
        pass


def test_the_first_signal_asks_and_is_forgotten_at_the_end():
    with preemption.listening():
        preemption.stop_if_requested("nobody asked")
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(preemption.Stopped, match="half done"):
            preemption.stop_if_requested("half done")
    assert not preemption.requested()


def test_the_second_signal_ends_the_program_at_once():
    code = (
        "import os, signal, time\n"
        "from score_sde.runtime.preemption import listening\n"
        "with listening():\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('going on', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=50
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stdout == b"going on\n"


# Whole runs, by real signals.

SMALL = [
    "--config.network.channels=8",
    "--config.data.batch_size=16",
    "--config.train.num_steps=60",
    "--config.train.log_every=5",
    "--config.train.checkpoint_every=20",
    "--config.train.sample_every=1000",
    "--config.optimizer.warmup_steps=5",
    "--config.sampling.batch_size=4",
    "--config.grid.num_steps=2",
]


def start_training(workdir):
    command = [sys.executable, "-m", "experiments.train"]
    command += ["--config=configs/digits.py", f"--workdir={workdir}", *SMALL]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_step(workdir, step, run):
    """Until the metrics have a row of that step, or the run has ended."""
    deadline = time.monotonic() + 200
    path, began = workdir / "metrics.jsonl", time.time()
    while run.poll() is None:
        # Not those that another run left.
        is_new = path.exists() and path.stat().st_mtime > began
        rows = path.read_text().splitlines() if is_new else []
        if rows and json.loads(rows[-1])["step"] >= step:
            return
        assert time.monotonic() < deadline, f"no step {step} in {path}"
        time.sleep(0.05)


def end_of(workdir):
    """(arrays of the newest checkpoint, rows of the metrics without their speed)."""
    import orbax.checkpoint as ocp

    (newest,) = sorted(
        (p for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal()),
        key=lambda p: int(p.name),
    )[-1:]
    arrays = jax.tree.leaves(ocp.StandardCheckpointer().restore(newest / "training"))
    arrays += jax.tree.leaves(ocp.StandardCheckpointer().restore(newest / "average"))
    rows = [json.loads(r) for r in (workdir / "metrics.jsonl").read_text().splitlines()]
    timed = {"images_per_second", "seconds_per_step", "data_wait", "save_seconds"}
    timed |= {"tflops_per_second"}
    kept = [{n: v for n, v in row.items() if n not in timed} for row in rows]
    return [np.asarray(a) for a in arrays], kept


def random_moments(count):
    """Steps of the run of 60 steps, and seconds after them."""
    random = np.random.RandomState(0)
    steps = np.sort(random.randint(0, 60, count))
    return [(int(step), random.uniform(0, 0.5)) for step in steps]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("number", "times"), [(signal.SIGTERM, 3), (signal.SIGKILL, 10)]
)
def test_an_interrupted_run_ends_like_an_undisturbed_one(tmp_path, number, times):
    """Bit for bit, whenever the signals come: all of the state, and the metrics."""
    undisturbed = start_training(tmp_path / "a")
    assert undisturbed.wait(300) == 0, undisturbed.stdout.read()
    for step, seconds in random_moments(times):
        run = start_training(tmp_path / "b")
        try:
            wait_for_step(tmp_path / "b", step, run)
            time.sleep(seconds)
            run.send_signal(number)
            said, _ = run.communicate(timeout=120)
        finally:
            run.kill()
        if number == signal.SIGTERM and "trained" not in said:  # which comes last
            assert run.returncode == 0, said
            assert "is saved in" in said
    last = start_training(tmp_path / "b")
    assert last.wait(300) == 0, last.stdout.read()
    (arrays, rows), (expected, expected_rows) = (
        end_of(tmp_path / name) for name in ("b", "a")
    )
    assert rows == expected_rows
    for got, want in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(got, want)


KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import numpy as np
from score_sde.runtime.folder import read_json, save_arrays, write_json

folder = Path(sys.argv[1])

def write(number):
    write_json(folder / "config.json", {"number": number, "more": [number] * 5_000})
    save_arrays(folder / "samples.npz", {"x": np.full(50_000, number)}, compress=True)
    write_json(folder / "results.json", {"number": number, "more": [number] * 5_000})

def read():
    numbers = []
    for name in ("config.json", "results.json"):
        content = read_json(folder / name)
        assert content["more"] == [content["number"]] * 5_000, name
        numbers.append(content["number"])
    with np.load(folder / "samples.npz") as file:
        assert (file["x"] == file["x"][0]).all() and len(file["x"]) == 50_000
        numbers.append(int(file["x"][0]))
    return numbers

start = time.monotonic()
for number in range(5):
    write(number)
took = (time.monotonic() - start) / 5  # kills come within the first writes of a child
random.seed(0)
seen = set()
for _ in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        for number in range(max(read()) + 1, 10**9):
            write(number)
    time.sleep(random.uniform(0.1, 4) * took)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    seen.add(tuple(read()))
print(len(seen), max(read()))
"""


def test_two_writers_of_one_file_leave_what_one_of_them_wrote(tmp_path):
    path = tmp_path / "a" / "results.json"
    with replaced(path) as first, replaced(path) as second:
        assert first.parent == second.parent == path.parent
        assert first.suffix == second.suffix == ".json"
        first.write_text("a long first text")
        second.write_text("second")
        assert not path.exists()
    # The inner one was done first, and the outer one replaced it whole.
    assert path.read_text() == "a long first text"
    with pytest.raises(UnicodeEncodeError), replaced(path) as partial:
        partial.write_text("half, and then \ud800", encoding="utf-8")
    assert path.read_text() == "a long first text"
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_each_file_old_or_new_but_whole(tmp_path):
    """300 kills while config, arrays and results are replaced over and over."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), "300"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    different, written = map(int, done.stdout.split())
    assert different > 100  # the kills met many states
    assert written > 100
