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
import contextlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
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
            config = _load(known.config, known.workdir)
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
    from score_sde.training.checkpoints import SaveError
    from score_sde.training.preemption import Stopped, listening
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


def _load(file: str | None, workdir: Path) -> dict[str, Any]:
    """The config of a file, or the one that the run was trained with."""
    if file is None:
        path = workdir / "config.json"
        if not path.exists():
            raise ValueError(
                f"no config: give --config=FILE, or a --workdir with {path}."
            )
        return _tuples(json.loads(path.read_text()))
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"--config: no file {file!r}.")
    spec = importlib.util.spec_from_file_location("config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--config: {file!r} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"--config: {file!r} has no function get_config().")
    config = module.get_config()
    return config.to_dict()


def _override(config: dict[str, Any], overrides: dict[str, str]) -> dict[str, Any]:
    """Set fields of the completed config; ConfigDict refuses new names and types."""
    from ml_collections import ConfigDict

    from score_sde.build import NAMED, complete, rename

    for field, text in overrides.items():
        section, _, name = field.partition(".")
        current = config.get(section, {})
        if name == "name" and section in NAMED and current.get("name") != text:
            config[section] = rename(current, text, section)
    full = ConfigDict(complete(config)).lock()
    for field, text in overrides.items():
        *path, name = field.split(".")
        try:
            section = full
            for part in path:
                section = section[part]
            section[name] = _literal(text, like=section[name])
        except (AttributeError, KeyError, TypeError) as error:
            reason = str(error.args[0]) if error.args else str(error)
            raise ValueError(f"--config.{field}={text}: {reason}") from None
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


def require_frozen(command: Command) -> None:
    """Raises: UserError if a control branch is to be trained on no trained network."""
    from score_sde.types import UserError

    name, workdir = command.config["network"]["name"], command.workdir
    if name == "controlled_unet" and not (workdir / "checkpoints").is_dir():
        raise UserError(
            f"network.name is {name!r}, a branch of a trained run, and there is none "
            f"in {workdir}: make it by python -m experiments.add_control --from=RUN "
            f"--workdir={workdir}"
        )


@contextlib.contextmanager
def new_run(workdir: Path) -> Iterator[Path]:
    """A folder to be filled, which becomes workdir if nothing goes wrong meanwhile.

    Raises: UserError if workdir is there and not an empty folder.
    """
    from score_sde.types import UserError

    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"{workdir} is in use; name another --workdir.")
    partial = workdir.with_name(f".{workdir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        if workdir.exists():
            workdir.rmdir()
        partial.rename(workdir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def print_dry_run(config: dict[str, Any], experiment: Any) -> None:
    """The resolved config, parameters, operations and an estimate of memory."""
    import jax

    from score_sde.experiment import init_params
    from score_sde.jobs import memory_estimate, training_flops
    from score_sde.networks import count_parameters

    params = jax.eval_shape(lambda: init_params(experiment))
    state, kept = memory_estimate(experiment, params)
    print(json.dumps(config, indent=2))
    print(f"parameters: {count_parameters(params):,}")
    flops = training_flops(experiment, params)
    print(
        f"operations: {flops / 3e9:,.3g} GFLOP for an example forwards, and about "
        f"{flops * experiment.data.batch_size / 1e9:,.3g} to train on a batch"
    )
    print(
        f"memory to train: {state / 2**20:,.0f} MiB of state on each device, and at "
        f"most {kept / 2**20:,.0f} MiB of activations over all of them"
    )


class Run(NamedTuple):
    """A trained run, opened to use its model."""

    experiment: Any
    mesh: Any
    step: int
    """Of the newest checkpoint."""
    params: Any
    """Their moving average."""


def open_run(command: Command) -> Run | None:
    """The run of a command; None after a dry run, which is printed."""
    import jax

    from score_sde.build import build
    from score_sde.experiment import init_params
    from score_sde.training.mesh import local_mesh, start_devices

    experiment = build(command.config)
    if command.dry_run:
        print_dry_run(command.config, experiment)
        return None
    guidance = command.config["guidance"]
    if guidance["name"] == "auto":
        worse = _worse(experiment, Path(guidance["run"]))
        experiment = experiment._replace(worse=worse)
    start_devices(command.hosts)
    like = jax.eval_shape(lambda: init_params(experiment))
    step, params = restored(command.workdir / "checkpoints", like)
    if guidance["name"] == "auto":
        like = jax.eval_shape(lambda: init_params(worse))
        _, bad = restored(Path(guidance["run"]) / "checkpoints", like)
        params = params | {"worse": bad}
    if guidance["name"] == "classifier":
        params = params | {"classifier": _classifier(command.workdir, experiment)}
    return Run(experiment, local_mesh(), step, params)


def restored(folder: Path, like: Any) -> tuple[int, Any]:
    """(step, averaged parameters) of the newest checkpoint, whole on every device."""
    import jax

    from score_sde.training.checkpoints import Checkpoints
    from score_sde.training.mesh import (
        Devices,
        local_mesh,
        make_mesh,
        replicated,
        to_host,
    )

    mesh = make_mesh(Devices())
    like = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=replicated(mesh)),
        like,
    )
    with Checkpoints(folder, create=False) as checkpoints:
        step, params = checkpoints.restore_average(like)
    if jax.process_count() > 1:
        params = jax.device_put(to_host(params, mesh), replicated(local_mesh()))
    return step, params


def _worse(experiment: Any, workdir: Path) -> Any:
    """The experiment of a run that guides by being worse.

    Raises: UserError if it is of other data, or told something else of them.
    """
    from score_sde.build import build, complete
    from score_sde.conditions import of_blank
    from score_sde.types import UserError

    worse = build(complete(_load(None, workdir)))

    def told(experiment: Any) -> Any:
        data = experiment.dataset
        names = list(of_blank(experiment.conditions, data.shape) or {})
        return data.name, data.shape, experiment.condition, names

    if told(worse) != told(experiment):
        raise UserError(
            f"guidance.run: {workdir} is of other data, or told something else of them."
        )
    return worse


def _classifier(workdir: Path, experiment: Any) -> Any:
    """The parameters that `experiments.train_classifier` left.

    Raises: UserError if it left none.
    """
    import jax

    from score_sde.experiment import classifier_network
    from score_sde.types import UserError

    like = jax.eval_shape(
        lambda: classifier_network(experiment).init(jax.random.key(0))
    )
    folder = workdir / "classifier" / "checkpoints"
    if not folder.is_dir():
        raise UserError(
            f"guidance.name is 'classifier', and there is none in {folder}: train it "
            f"by python -m experiments.train_classifier --workdir={workdir}"
        )
    return restored(folder, like)[1]


def fingerprint(config: dict[str, Any], step: int, *sections: str) -> dict[str, Any]:
    """What decides a result: the checkpoint's step, the seed, and these sections."""
    return json.loads(
        json.dumps(
            {"step": step, "seed": config["seed"]} | {s: config[s] for s in sections}
        )
    )


def is_done(report: Path, made_by: dict[str, Any]) -> bool:
    """Whether a report exists that was made by exactly this."""
    if not report.exists():
        return False
    old = json.loads(report.read_text())
    return all(old.get(name) == value for name, value in made_by.items())
