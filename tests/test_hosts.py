"""Several processes on loopback: one run, whoever computes it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

POINTS = [
    "--config=configs/points.py",
    "--config.data.batch_size=1024",
    "--config.network.width=64",
    "--config.train.num_steps=200",
    "--config.train.log_every=10",
    "--config.train.checkpoint_every=50",
    "--config.train.sample_every=100",
    "--config.optimizer.warmup_steps=5",
    "--config.sampling.batch_size=64",
    "--config.sampling.num_samples=128",
    "--config.grid.num_steps=4",
    "--config.likelihood.batch_size=1250",
    "--config.likelihood.num_checked=8",
    "--config.likelihood.bound_draws=2",
    # Steps chosen by an estimate follow its rounding, which hosts change: an example's
    # number then moves by about the tolerance. On a grid all steps are alike.
    "--config.likelihood.num_steps=16",
]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(program, workdir, *, hosts, devices, options=()):
    """One process for each host, each with as many simulated devices."""
    port, processes = free_port(), []
    for host in range(hosts):
        command = [sys.executable, "-m", f"experiments.{program}"]
        command += [f"--workdir={workdir}", *options]
        if hosts > 1:
            command += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={hosts}"]
            command += [f"--process_id={host}", "--heartbeat_timeout=10"]
        processes.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def finish(processes, *, code=0):
    """What each said, all of which must end with the exit code, if one is given."""
    said = []
    try:
        for process in processes:
            said.append(process.communicate(timeout=250)[0])
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, said, strict=True):
        assert code is None or process.returncode == code, text
    return said


def losses(workdir):
    path = workdir / "metrics.jsonl"
    rows = map(json.loads, path.read_text().splitlines() if path.exists() else [])
    return {row["step"]: row["loss"] for row in rows if row["step"] % 10 == 0}


def wait_for_step(workdir, step):
    deadline = time.monotonic() + 200
    while max(losses(workdir), default=0) < step:
        assert time.monotonic() < deadline, f"no step {step} in {workdir}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of one process with four devices."""
    workdir = tmp_path_factory.mktemp("alone")
    finish(start("train", workdir, hosts=1, devices=4, options=POINTS))
    return workdir


def assert_equal_losses(workdir, expected):
    """Of 200 steps, whose sums over hosts are rounded in another order.

    That is 1e-7 at first, and grows with every step that starts from it.
    """
    found, wanted = losses(workdir), losses(expected)
    assert found.keys() == wanted.keys()
    np.testing.assert_allclose(
        list(found.values()), list(wanted.values()), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize(
    ("hosts", "devices", "options"),
    [(2, 2, ()), (4, 1, ("--config.devices.fsdp=4",))],
    ids=["2x2", "4x1 fsdp"],
)
def test_hosts_train_like_one(tmp_path, alone, hosts, devices, options):
    layout = {"hosts": hosts, "devices": devices}
    said = finish(start("train", tmp_path, **layout, options=[*POINTS, *options]))
    assert_equal_losses(tmp_path, alone)
    # The first alone reports.
    assert ["trained 200 steps" in text for text in said] == [True] + [False] * (
        hosts - 1
    )


def test_hosts_sample_and_score_like_one(tmp_path, alone):
    """Every example once, each a function of its number."""
    results = []
    for hosts, devices in ((1, 4), (2, 2)):
        for program in ("sample", "likelihood"):
            finish(start(program, alone, hosts=hosts, devices=devices))
        with np.load(alone / "samples.npz") as arrays:
            samples = arrays["samples"]
        with np.load(alone / "likelihood.npz") as arrays:
            results.append((samples, arrays["test_nats"]))
        for name in ("samples.json", "likelihood.json"):
            (alone / name).rename(tmp_path / f"{hosts}_{name}")
    (samples, nats), (samples_of_two, nats_of_two) = results
    assert len(nats) == 5_000
    np.testing.assert_allclose(samples_of_two, samples, atol=1e-5)
    np.testing.assert_allclose(nats_of_two, nats, atol=1e-4)


def test_hosts_and_devices_measure_one_number(alone):
    """Metrics of the same samples, and the statistics of the data, to 1e-9."""
    finish(start("sample", alone, hosts=1, devices=4))
    results = []
    for hosts, devices in ((1, 1), (1, 8), (2, 2)):
        layout = {"hosts": hosts, "devices": devices}
        for program in ("evaluate", "reference_stats"):
            few = ["--config.evaluation.num_real=2100"]  # three parts
            finish(start(program, alone, **layout, options=few))
        report = json.loads((alone / "evaluation.json").read_text())
        numbers = [
            [row[key] for key in ("value", "low", "high")]
            for rows in report["metrics"].values()
            for part in ("samples", "floor")
            for row in rows[part].values()
        ]
        with np.load(alone / "reference.npz") as file:
            assert file["number"] == report["reference"]["number"]
            results.append((numbers, file["mu"], file["sigma"]))
        for name in ("evaluation.json", "reference.npz"):
            (alone / name).unlink()
        assert not list(alone.glob("*_parts"))
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_signal_to_one_host_stops_all_at_one_step(tmp_path, alone):
    hosts = start("train", tmp_path, hosts=2, devices=2, options=POINTS)
    wait_for_step(tmp_path, 20)
    hosts[1].send_signal(signal.SIGTERM)
    said = finish(hosts)
    (at,) = {text.split("stopped; step ")[1].split(" is saved")[0] for text in said}
    assert (tmp_path / "checkpoints" / at).is_dir()
    # And goes on with another number of hosts.
    finish(start("train", tmp_path, hosts=1, devices=4, options=POINTS))
    assert_equal_losses(tmp_path, alone)


@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_host_dies_the_others_end_and_the_run_can_go_on(tmp_path, alone, victim):
    hosts = start("train", tmp_path, hosts=2, devices=2, options=POINTS)
    wait_for_step(tmp_path, 70)
    hosts[victim].kill()
    began = time.monotonic()
    finish(hosts, code=None)
    assert time.monotonic() - began < 60
    assert hosts[1 - victim].returncode != 0
    four = start("train", tmp_path, hosts=4, devices=1, options=POINTS)
    said = finish(four)
    assert "resuming from step" in said[0]
    assert_equal_losses(tmp_path, alone)


def test_a_second_run_in_the_folder_is_refused_on_every_host(tmp_path):
    hosts = start("train", tmp_path, hosts=2, devices=1, options=POINTS)
    wait_for_step(tmp_path, 10)
    others = start("train", tmp_path, hosts=2, devices=1, options=POINTS)
    said = finish(others, code=None)
    assert "another program writes" in said[0]
    assert all(other.returncode != 0 for other in others)
    for host in hosts:
        host.kill()
    finish(hosts, code=None)
