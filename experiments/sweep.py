r"""Many runs of one config: score-sde sweep --config=FILE --workdir=DIR \
    --grid.optimizer.learning_rate=0.01,0.02 --grid.seed=0,1

Every combination of the values is a run in its own folder of DIR, trained by `train`;
other fields are set for all by --config.section.field=value. Without --grid, the runs
are those that a function sweep() of the config file lists, each a dict such as
{"optimizer.learning_rate": 0.01}. The same command goes on where it was interrupted,
tries again what failed, and at the end prints a table, which is also DIR/results.json.

--jobs=N      runs at a time on this machine, 1 by default
--likelihood  score the held-out data of every run that is trained, for the table
--task=I      train run I alone and print no table: one task of an array of SLURM,
              --array=0-N, with --task=$SLURM_ARRAY_TASK_ID
--list        print the runs, and stop
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import launch
from .config_files import sweep_of
from .literals import word_of
from .words import Overrides, expand, read_overrides, words_of

if TYPE_CHECKING:
    from score_sde.run.status import Status


class Run(NamedTuple):
    """One combination of values."""

    values: dict[str, str]
    """Field -> the word on the command line."""
    workdir: Path

    def command(self, program: str, *options: str) -> list[str]:
        """The command of a program for this run."""
        module = [sys.executable, "-m", f"{__package__}.{program}"]
        return [*module, f"--workdir={self.workdir}", *options]


def runs_of(workdir: Path, changes: list[dict[str, str]]) -> list[Run]:
    """A run for each dict of values, in a folder that says what they are.

    Raises:
        ValueError: two runs would share a folder.
    """
    runs = [Run(values, workdir / _folder(values)) for values in changes]
    seen: dict[Path, Run] = {}
    for run in runs:
        other = seen.setdefault(run.workdir, run)
        if other is not run:
            raise ValueError(
                f"{other.values} and {run.values} would share the folder {run.workdir}"
            )
    return runs


def combinations(grid: dict[str, list[str]]) -> list[dict[str, str]]:
    """Every combination of the values of some fields, in order."""
    return [
        dict(zip(grid, values, strict=True))
        for values in itertools.product(*grid.values())
    ]


def _folder(values: dict[str, str]) -> str:
    """A name that says the values, cut where a file system would refuse it."""
    name = ",".join(f"{k}={_as_name(v)}" for k, v in values.items()) or "unchanged"
    if len(name.encode()) <= 200:
        return name
    return f"{name[:50]}-{zlib.crc32(repr(values).encode()):08x}"


def _as_name(value: str) -> str:
    return "".join(c if c.isalnum() or c in "._-+" else "_" for c in value)


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[Run], list[str]]:
    """(options, runs, fields that are the same for all)."""
    parser = launch.Parser(
        description=__doc__,
        usage="%(prog)s --config=NAME --workdir=DIR [--grid.FIELD=V,V,...] [FLAGS]",
    )
    parser.add_argument("--config", metavar="NAME")
    parser.add_argument("--workdir", metavar="DIR", type=Path)
    parser.add_argument("--jobs", type=int, default=1, metavar="N")
    parser.add_argument("--likelihood", action="store_true")
    parser.add_argument("--task", type=int, metavar="I")
    parser.add_argument("--list", action="store_true")
    try:
        words = expand(list(sys.argv[1:] if argv is None else argv))
        common, words = read_overrides(words)
        grid, words = read_overrides(words, "grid")
        known, unknown = parser.parse_known_args(words)
        for word in unknown:
            parser.error(
                f"{word!r}: expected --grid.section.field=value,value,... or "
                "--config.section.field=value"
            )
        parser.require(known, "config", "workdir")
        if known.jobs < 1:
            parser.error(f"--jobs is {known.jobs}; it must be at least 1")
        runs = runs_of(known.workdir, _changes(grid, known.config))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    for field in sorted({field for run in runs for field in run.values} & set(common)):
        parser.error(f"--config.{field} is set for all, and is swept as well")
    if known.task is not None and not 0 <= known.task < len(runs):
        parser.error(f"--task is {known.task}; it must be from 0 to {len(runs) - 1}")
    return known, runs, words_of(common)


def _changes(grid: Overrides, config: str) -> list[dict[str, str]]:
    """List the changes that the grid, or else the config file, asks for.

    Raises:
        ValueError: neither does, or a field has no values.
    """
    values: dict[str, list[str]] = {}
    for field, given in grid.items():
        if len(given) > 1:
            raise ValueError(f"--grid.{field} is given twice")
        if isinstance(given[0], bool) or not given[0]:
            raise ValueError(
                f"--grid.{field}: expected --grid.section.field=value,value,..."
            )
        values[field] = _values(given[0])
    if values:
        return combinations(values)
    changes = sweep_of(config)
    if not changes:
        raise ValueError(
            "give at least one --grid.section.field=value,value,..., or a function "
            "sweep() in the config file"
        )
    return [{k: word_of(v) for k, v in change.items()} for change in changes]


def _values(text: str) -> list[str]:
    """Values between commas, but for commas in brackets, of a tuple or a dict."""
    values, depth = [""], 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            values.append("")
        else:
            values[-1] += c
    return values


def main(argv: list[str] | None = None) -> int:
    """Check every config, train what isn't trained, print the table."""
    known, runs, common = parse(argv)
    if known.list:
        for i, run in enumerate(runs):
            print(i, run.workdir)
        return 0
    from score_sde.run.build import build
    from score_sde.types import UserError

    for run in runs:  # a mistake in the last is found before the first trains
        words = [f"--config.{k}={v}" for k, v in run.values.items()]
        command = launch.parse(
            "",
            [f"--config={known.config}", f"--workdir={run.workdir}", *common, *words],
        )
        try:
            build(command.config)
        except UserError as error:
            print(f"{run.workdir.name}: {error}", file=sys.stderr)
            return 2
    chosen = runs if known.task is None else [runs[known.task]]
    with _interruptible() as processes, ThreadPoolExecutor(known.jobs) as pool:
        codes = list(
            pool.map(
                lambda run: _finish(run, known.config, common, known, processes), chosen
            )
        )
    if known.task is None:
        found = {
            run.workdir.name: _row(run, code)
            for run, code in zip(runs, codes, strict=True)
        }
        _print_table(_keep_rows(known.workdir / "results.json", found))
    return max(codes)


def _keep_rows(file: Path, found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Write the rows of these runs beside those of other grids in the same folder."""
    from score_sde.runtime.folder import write_json

    before = json.loads(file.read_text()) if file.exists() else []
    kept = {row["run"]: row for row in before if "run" in row}
    rows = list((kept | found).values())
    write_json(file, rows)
    return rows


def _finish(
    run: Run,
    config: str,
    common: list[str],
    known: argparse.Namespace,
    processes: set[subprocess.Popen[bytes]],
) -> int:
    """Train a run, and score it if asked; what they say goes to files beside it."""
    fields = [f"--config.{k}={v}" for k, v in run.values.items()]
    commands = {"train": run.command("train", f"--config={config}", *common, *fields)}
    if known.likelihood:
        commands["likelihood"] = run.command("likelihood")
    run.workdir.mkdir(parents=True, exist_ok=True)
    for program, command in commands.items():
        if _stopping:
            return 0
        with (run.workdir / f"{program}.log").open("ab") as log:
            # A session of its own, so that Ctrl-C reaches it once, by `stop`.
            process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True
            )
            processes.add(process)
            code = process.wait()
            processes.discard(process)
        if code:
            print(f"{run.workdir}: {program} failed, see {log.name}", file=sys.stderr)
            return 1
    status = _status(run)
    print(f"{run.workdir}: {status.state() if status else NOT_STARTED}", flush=True)
    return 0


_stopping: list[int] = []


@contextmanager
def _interruptible() -> Iterator[set[subprocess.Popen[bytes]]]:
    """Hand a signal on to the runs, which save, and start no others."""
    processes: set[subprocess.Popen[bytes]] = set()

    def stop(number: int, frame: Any) -> None:
        del frame
        _stopping.append(number)
        for process in list(processes):
            process.send_signal(signal.SIGTERM)

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield processes
    finally:
        _stopping.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


NOT_STARTED = "not started"


def _status(run: Run) -> Status | None:
    """Read the status of a run; None before its folder describes it."""
    from score_sde.run.status import read_status
    from score_sde.types import UserError

    try:
        return read_status(run.workdir)
    except UserError:
        return None


def _row(run: Run, code: int) -> dict[str, Any]:
    """Make the row of a run in the table; one that failed has no numbers."""
    status = _status(run)
    row: dict[str, Any] = {"run": run.workdir.name, **run.values, "state": NOT_STARTED}
    if code:
        return row | {"state": "failed"}
    if status is not None:
        row |= {"state": status.state(), "step": status.step}
        for name in ("loss", "test_loss"):
            known = [r[name] for r in status.rows if r.get(name) is not None]
            row[name] = known[-1] if known else None
    report = run.workdir / "likelihood.json"
    if report.exists() and status is not None:
        scored = json.loads(report.read_text())
        # Not the numbers of what was trained before.
        if scored["made_by"]["step"] == max(status.checkpoints, default=None):
            test = scored["splits"]["test"]
            row |= {name: test[name] for name in ("bits_per_dim", "standard_error")}
    return row


def _print_table(rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_text(row.get(name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for line in [names, *cells]:
        print("  ".join(w.ljust(n) for w, n in zip(line, widths, strict=True)).rstrip())


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(launch.print_report(main))
