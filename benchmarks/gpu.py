"""The GPU half of the benchmarks by one command, each step below ten minutes.

    python -m benchmarks.gpu --out=runs/gpu
    python -m benchmarks.gpu --out=runs/gpu --only train heun
    python -m benchmarks.gpu --out=runs/small --small        # a CPU, in miniature

A step is one of the other benchmarks in a process of its own, which is ended after ten
minutes. Its output is in NAME.log and its record in NAME.json; one whose record is
there is not run again, so that the command goes on where a lent machine was taken away.
`networks` needs PyTorch, `likelihood` and `overhead` compare with what is installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

LIMIT = 600
"""Seconds of a step."""
TOO_LONG = 124
"""The exit status of a step that was ended, as of timeout(1)."""


class Step(NamedTuple):
    """A benchmark and its arguments, on a GPU and in miniature."""

    module: str
    arguments: tuple[str, ...]
    small: tuple[str, ...]


def _network(*arguments: str) -> Step:
    """EDM's CIFAR-10 network in bfloat16, beside PyTorch."""
    large = ("--channels=128", "--blocks=4", "--batch=256", "--dtype=bfloat16")
    small = ("--channels=8", "--blocks=1", "--batch=2", "--repeat=1", "--steps=2")
    return Step("networks", (*large, *arguments), (*small, *arguments))


STEPS = {
    # First what costs least and says most.
    "likelihood": Step(
        "likelihood",
        ("--batch=256", "--channels=128", "--repeat=3"),
        ("--batch=1", "--channels=2", "--size=4", "--repeat=1", "--tolerance=1e-2"),
    ),
    "train": _network("--rows", "train"),
    "heun": _network("--rows", "heun"),
    "steps_per_call": _network("--rows", "steps_per_call"),
    "ncsnpp": _network("--arch=ncsnpp", "--rows", "train"),
    "dit": Step(
        "dit",
        (),
        ("--hidden_size=64", "--depth=1", "--batch=2", "--repeat=1", "--side=64"),
    ),
    "precision": Step("precision", (), ("--num_steps=50",)),
    "overhead": Step("overhead", (), ("--repeat=1",)),
}


def run(name: str, out: Path, *, small: bool = False, limit: float = LIMIT) -> int:
    """Run a step, unless its record is there; the exit status of its program.

    Args:
        name: of `STEPS`.
        out: the folder of logs and records.
        small: in miniature.
        limit: seconds after which it is ended.
    """
    step, record = STEPS[name], out / f"{name}.json"
    if record.exists():
        print(f"{name:<16} is there: {record}", flush=True)
        return 0
    written = out / f"{name}.json.partial"
    words = [sys.executable, "-m", f"benchmarks.{step.module}", f"--json={written}"]
    words += step.small if small else step.arguments
    began = time.monotonic()
    with (out / f"{name}.log").open("w") as log:
        try:
            status = subprocess.run(
                words,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Two libraries share the memory.
                env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
                timeout=limit,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = TOO_LONG
    if status == 0:
        written.replace(record)
    ends = {0: "done", TOO_LONG: f"ended after {limit:g} s"}
    says = ends.get(status, f"FAILED, see {out / name}.log")
    print(f"{name:<16} {says}, {time.monotonic() - began:.0f} s", flush=True)
    return status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    sys.exit(
        max(run(name, arguments.out, small=arguments.small) for name in arguments.only)
    )


if __name__ == "__main__":
    main()
