"""What the programs share: their command line, and the files that describe a run.

--config=FILE              a Python file with get_config(); by default, the config
                           that the run in --workdir was trained with
--config.section.field=v   changes one field; naming another alternative, as in
                           --config.sampler.name=heun, starts from its defaults
--workdir=DIR              where the run lives
--dry_run                  print what would be run, and stop
--distributed              the same command runs on every host of a cluster that JAX
                           knows: TPU pod, SLURM, Kubernetes, Open MPI
--coordinator=ADDRESS:PORT --num_processes=N --process_id=I
                           ... of any other
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple


class Command(NamedTuple):
    """A parsed command line."""

    config: dict[str, Any]
    workdir: Path
    dry_run: bool
    options: Mapping[str, Any] = MappingProxyType({})
    """Those of this program alone."""
    hosts: dict[str, Any] | None = None
    """For `start_devices`: how to find the other hosts; None without any."""


def parse(
    description: str,
    argv: list[str] | None = None,
    *,
    options: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
    default: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Command:
    """Read the command line; --help answers before anything heavy is imported.

    Args: `options` of this program alone, each with its help, all of them needed;
    `flags` of it, which may be left out; `default(options)`, the config without
    --config, instead of the run's.
    Raises: SystemExit for bad arguments, with one line that says what is wrong.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog="Any field of the config can be set: --config.section.field=value.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="a file with get_config()")
    parser.add_argument("--workdir", metavar="DIR", required=True, type=Path)
    parser.add_argument(
        "--dry_run", action="store_true", help="print what would be run, and stop"
    )
    parser.add_argument(
        "--distributed", action="store_true", help="run on all hosts of a cluster"
    )
    parser.add_argument("--coordinator", metavar="ADDRESS:PORT", help="of host 0")
    parser.add_argument("--num_processes", type=int, help="how many hosts there are")
    parser.add_argument("--process_id", type=int, help="which of them this is")
    parser.add_argument(
        "--heartbeat_timeout",
        type=int,
        metavar="SECONDS",
        default=100,
        help="after which a host that is silent is dead, and all others end",
    )
    for name, text in (options or {}).items():
        parser.add_argument(f"--{name}", required=True, help=text)
    for name, text in (flags or {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    known, rest = parser.parse_known_args(argv)
    own = {name: getattr(known, name) for name in {**(options or {}), **(flags or {})}}
    overrides = _overrides(parser, rest)
    try:
        if known.config is None and default is not None:
            config = default(own)
        else:
            config = load_config(known.config, known.workdir)
        config = _override(config, overrides)
        hosts = _hosts(parser, known)
        return Command(config, known.workdir, known.dry_run, own, hosts)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def run(main: Callable[[Command], None], description: str, **own: Any) -> None:
    """Parse and call main; a user's mistake is answered by its message alone.

    Args: `own`, the program's `options`, `flags` and `default` for `parse`.
    Exit codes: 0 also after a signal, once all that was done is saved; 2 for a mistake
    in config or command, 1 for files and for training that diverged.
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
        print(error, file=sys.stderr)
        sys.exit(2)
    except (NonFiniteLossError, SaveError, OSError) as error:
        sys.exit(str(error))


def _hosts(
    parser: argparse.ArgumentParser, known: argparse.Namespace
) -> dict[str, Any] | None:
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


def _overrides(parser: argparse.ArgumentParser, rest: list[str]) -> dict[str, str]:
    """--config.a.b=value and --config.a.b value, as {'a.b': 'value'}."""
    overrides: dict[str, str] = {}
    words = iter(rest)
    for word in words:
        if not word.startswith("--config."):
            parser.error(f"unknown argument {word!r}")
        field, equals, value = word.removeprefix("--config.").partition("=")
        if not equals:
            value = next(words, "")
            if not value:
                parser.error(f"{word} needs a value")
        overrides[field] = value
    return overrides


def load_config(file: str | None, workdir: Path) -> dict[str, Any]:
    """The config of a file, or the one that the run was trained with."""
    if file is None:
        path = workdir / "config.json"
        if not path.exists():
            raise ValueError(
                f"no config: give --config=FILE, or a --workdir with {path}."
            )
        from score_sde.runtime.folder import read_json

        return _tuples(read_json(path))
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"--config: no file {file!r}.")
    spec = importlib.util.spec_from_file_location("config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--config: {file!r} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ValueError(f"--config: {file!r} has no function get_config().")
        config = module.get_config()
    except (SyntaxError, ImportError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"--config: {file!r}{_line(error, path)}: {error}") from None
    if isinstance(config, dict):
        return config
    if not hasattr(config, "to_dict"):
        raise ValueError(f"--config: get_config() of {file!r} gave {config!r}.")
    return config.to_dict()


def _line(error: Exception, path: Path) -> str:
    """Where in a config file it went wrong."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    return f", line {lines[-1]}" if lines else ""


def _override(config: dict[str, Any], overrides: dict[str, str]) -> dict[str, Any]:
    """Set fields of the completed config; ConfigDict refuses new names and types."""
    from ml_collections import ConfigDict

    from score_sde.run.build import NAMED, complete, rename
    from score_sde.types import choices_text

    for field, text in overrides.items():
        section, _, name = field.partition(".")
        current = config.get(section, {})
        if name == "name" and section in NAMED and current.get("name") != text:
            config[section] = rename(current, text, section)
    full = ConfigDict(complete(config)).lock()
    for field, text in overrides.items():
        holder: Any = None
        value: Any = full
        for part in field.split("."):
            known = value if isinstance(value, ConfigDict) else {}
            if part not in known:
                hint = choices_text(part, known)
                raise ValueError(f"--config.{field}={text}: there is no {part!r}{hint}")
            holder, value = value, value[part]
        if isinstance(value, ConfigDict):
            raise ValueError(f"--config.{field}={text}: it is a section of fields.")
        try:
            holder[part] = _literal(text, like=value)
        except TypeError:
            kind = type(value).__name__
            raise ValueError(f"--config.{field}={text}: it must be {kind}.") from None
    return full.to_dict()


def _literal(text: str, *, like: Any) -> Any:
    """The Python literal that a word on the command line spells."""
    if isinstance(like, str):
        return text
    if isinstance(like, bool):
        text = text.capitalize()
    if isinstance(like, float) and text in ("inf", "-inf", "nan"):
        return float(text)
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _tuples(value: Any) -> Any:
    """JSON has no tuples: every list of a saved config was one."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(value) if isinstance(value, list) else value
