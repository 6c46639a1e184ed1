"""The command line that all programs share.

--config=NAME              a packaged config such as digits, a Python file with
                           get_config(), or either with an argument, FILE.py:WORD; by
                           default, what the run in --workdir was trained with
--config.section.field=v   changes one field; naming another alternative, as in
                           --config.sampler.name=heun, starts from its defaults
--workdir=DIR              where the run lives
--flagfile=FILE            more words of the command line, one a line
--dry_run                  print what would be run, and stop
--distributed              the same command runs on every host of a cluster that JAX
                           knows: TPU pod, SLURM, Kubernetes, Open MPI
--coordinator=ADDRESS:PORT --num_processes=N --process_id=I
                           ... of any other
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from .config_files import open_config
from .overrides import apply, resolve
from .words import Overrides, expand, read_overrides

EPILOG = """\
--config.SECTION.FIELD=VALUE sets a field of the config, --config.SECTION.FIELD and
--noconfig.SECTION.FIELD a boolean one; --config=NAME --help prints them all.
"""


class Command(NamedTuple):
    """A parsed command line."""

    config: dict[str, Any]
    workdir: Path
    dry_run: bool
    options: Mapping[str, Any] = MappingProxyType({})
    """Options and flags of this program alone."""
    hosts: dict[str, Any] | None = None
    """How `start_devices` finds the other hosts; None without any."""
    traceback: bool = False
    """Whether a mistake is answered by a traceback."""


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake by one line, and keeps the layout of its help."""

    def __init__(self, **settings: Any):
        super().__init__(
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **settings,
        )

    def error(self, message: str, *others: str) -> NoReturn:
        lines = [" ".join(text.split()) for text in (message, *others)]
        self.exit(2, "".join(f"{self.prog}: {line}\n" for line in lines))

    def refuse_unknown(self, words: list[str]) -> None:
        """Stop at words that no argument took, with the nearest flag."""
        for word in words:
            name = word.partition("=")[0]
            known = [flag for flag in self._option_string_actions if flag[:2] == "--"]
            close = difflib.get_close_matches(name, known, n=1)
            guess = f"; did you mean {close[0]}?" if close else ""
            self.error(f"unknown argument {word!r}{guess}")

    def require(self, known: argparse.Namespace, *names: str) -> None:
        """Stop if one of these arguments is missing."""
        missing = [f"--{name}" for name in names if getattr(known, name) is None]
        if missing:
            self.error(f"give {' and '.join(missing)}")


def parse(
    description: str,
    argv: list[str] | None = None,
    *,
    options: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
    default: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    combined: Callable[[Any, dict[str, Any]], Any] | None = None,
) -> Command:
    """Read the command line; --help answers before anything heavy is imported.

    Args:
        description: what the program does, the head of its help.
        argv: the words; None for those of the process.
        options: options of this program alone, each with its help, all of them needed.
        flags: flags of this program alone, each with its help.
        default: makes the config from the options, where neither --config nor the run
            states one.
        combined: makes the config from that of --config and the options, before fields
            are set.

    Raises:
        SystemExit: a mistake, after one line that says what is wrong.
    """
    parser = _parser(description, options or {}, flags or {})
    show_traceback = False
    try:
        words = expand(list(sys.argv[1:] if argv is None else argv))
        overrides, words = read_overrides(words)
        known, unknown = parser.parse_known_args(words)
        show_traceback = known.traceback
        if known.help:
            parser.print_help()
            if known.config is not None:
                config = open_config(known.config, Path())
                print("\n" + _fields_text(known.config, config, overrides))
            parser.exit(0)
        parser.refuse_unknown(unknown)
        parser.require(known, "workdir", *(options or {}))
        own = {n: getattr(known, n) for n in {**(options or {}), **(flags or {})}}
        if known.config is None and default is not None:
            from ml_collections import ConfigDict

            config = ConfigDict(default(own))
        else:
            config = open_config(known.config, known.workdir)
            if combined is not None and known.config is not None:
                config = combined(config, own)
        config = apply(config, overrides)
        hosts = _hosts(parser, known)
        workdir, dry_run = known.workdir, known.dry_run
        return Command(config, workdir, dry_run, own, hosts, show_traceback)
    except (ValueError, OSError) as error:
        if show_traceback:
            raise
        parser.error(*getattr(error, "problems", [str(error)]))


def run(main: Callable[[Command], None], description: str, **own: Any) -> None:
    """Parse and call main; a user's mistake is answered by its message alone.

    Exit codes: 0 also after a signal, once all that was done is saved; 2 for a mistake
    in config or command, 1 for files and for training that diverged.

    Args:
        main: the program.
        description: of the program, the head of its help.
        own: the program's `options`, `flags`, `default` and `combined` for
            `parse`.
    """
    command = parse(description, **own)
    from score_sde.runtime.preemption import Stopped, listening
    from score_sde.training.checkpoints import SaveError
    from score_sde.training.watch import NonFiniteLossError
    from score_sde.types import UserError

    try:
        with listening():
            main(command)
    except Stopped as reason:
        print(reason)
    except UserError as error:
        if command.traceback:
            raise
        print(error, file=sys.stderr)
        sys.exit(2)
    except (NonFiniteLossError, SaveError, OSError) as error:
        if command.traceback:
            raise
        sys.exit(str(error))


def print_report(main: Callable[[], int]) -> int:
    """Run a program that only prints, and return its exit code.

    Behind `| head` nobody reads the rest: it goes nowhere, without a traceback.
    """
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    return status


def load_config(text: str | None, workdir: Path) -> dict[str, Any]:
    """The config of a name or a file, or the one that the run was trained with.

    Raises:
        ValueError: one line with file, line and mistake.
    """
    return resolve(open_config(text, workdir))


def _parser(
    description: str, options: Mapping[str, str], flags: Mapping[str, str]
) -> Parser:
    """The parser of a program; what it needs is checked after what it doesn't know."""
    needed = "".join(f" --{name}=..." for name in options)
    parser = Parser(
        description=description,
        epilog=EPILOG,
        usage=f"%(prog)s --workdir=DIR{needed} [--config=NAME] [FLAGS]",
        add_help=False,
    )
    add = parser.add_argument
    add("-h", "--help", action="store_true", help="with --config, its fields as well")
    add("--config", metavar="NAME", help="a packaged config or FILE.py, or with :WORD")
    add("--workdir", metavar="DIR", type=Path, help="the folder of the run")
    for name, text in options.items():
        add(f"--{name}", help=text)
    switches = {
        "dry_run": "print what would be run, and stop",
        **flags,
        "traceback": "answer a mistake by a traceback",
        "distributed": "run on all hosts of a cluster",
    }
    for name, text in switches.items():
        add(f"--{name}", action="store_true", help=text)
        hidden = argparse.SUPPRESS
        add(f"--no{name}", action="store_false", dest=name, help=hidden)
    add("--flagfile", metavar="FILE", help="more words, one a line")
    add("--coordinator", metavar="ADDRESS:PORT", help="of host 0")
    add("--num_processes", type=int, metavar="N", help="how many hosts there are")
    add("--process_id", type=int, metavar="I", help="which of them this is")
    add(
        "--heartbeat_timeout",
        type=int,
        metavar="SECONDS",
        default=100,
        help="after which a host that is silent is dead, and all others end",
    )
    return parser


def _fields_text(name: str, config: Any, overrides: Overrides) -> str:
    """Every field of a config with its value, a line each."""
    rows = list(_rows(apply(config, overrides)))
    width = max(len(field) for field, _ in rows)
    lines = [f"  {field:<{width}}  {value}" for field, value in rows]
    return "\n".join([f"fields of {name}, each set by --config.FIELD=VALUE:", *lines])


def _rows(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(field, value) of all that is not a section."""
    if isinstance(value, dict) and (value or not path):
        for name, item in value.items():
            yield from _rows(item, f"{path}.{name}".lstrip("."))
    else:
        yield path, repr(value)


def _hosts(parser: Parser, known: argparse.Namespace) -> dict[str, Any] | None:
    """The arguments of `jax.distributed.initialize`, None for one host."""
    told = {
        "coordinator_address": known.coordinator,
        "num_processes": known.num_processes,
        "process_id": known.process_id,
    }
    given = {name: value for name, value in told.items() if value is not None}
    if 0 < len(given) < len(told):
        parser.error("--coordinator, --num_processes and --process_id go together")
    if given and not 0 <= known.process_id < known.num_processes:
        parser.error(
            f"--process_id is {known.process_id}; it must be from 0 to "
            f"--num_processes - 1, {known.num_processes - 1}"
        )
    if not given and not known.distributed:
        return None
    return given | {"heartbeat_timeout_seconds": known.heartbeat_timeout}
