"""Find a config by its name and load it: a packaged one, a user's file, or a run's.

    --config=digits          a packaged config, one of the files in configs/
    --config=FILE.py         a Python file with get_config()
    --config=digits:WORD     either of them with an argument: get_config("WORD"); of a
                             packaged one, digits_WORD says the same

A file may say `from . import other` to start from another config in its own folder. It
may hold references and placeholders of ml_collections, which `overrides` resolves.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

PACKAGED = Path(__file__).parents[1] / "configs"
"""Folder of the packaged configs, in a checkout and in an installed package alike."""


class Source(NamedTuple):
    """A config file, and the argument of its get_config()."""

    file: Path
    argument: str | None


def packaged_names() -> list[str]:
    """Names of all packaged configs."""
    stems = sorted(path.stem for path in PACKAGED.glob("*.py"))
    return [stem for stem in stems if not stem.startswith("_")]


def open_config(text: str | None, workdir: Path) -> Any:
    """Load a config, with its references alive.

    Args:
        text: value of --config; None for the config of the run in workdir.
        workdir: folder of the run.

    Returns:
        An unlocked ConfigDict.

    Raises:
        ValueError: one line with file, line and mistake.
    """
    from ml_collections import ConfigDict

    if text is None:
        return ConfigDict(_read_run(workdir))
    source = find(text)
    before = _registered(source)
    config = _call(source, "get_config")
    registers = _registered(source) != before
    where = f"--config: get_config() of {str(source.file)!r}"
    if hasattr(config, "as_configdict"):  # frozen
        config = config.as_configdict()
    if not isinstance(config, (Mapping, ConfigDict)):
        raise ValueError(f"{where} gave {config!r}; it must give a ConfigDict.")
    for problem in _no_literals(config):
        raise ValueError(f"{where}: {problem}.")
    try:
        whole = ConfigDict(config).unlock()
        if registers:  # later programs find its parts by it
            path = str(source.file.resolve())
            whole.parts = (*whole.get("parts", ()), path)
        return whole
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{where}: {error}") from error


def sweep_of(text: str) -> list[dict[str, Any]] | None:
    """The changes that sweep() of a config file lists; None without such a function.

    Raises:
        ValueError: it gave something other than dicts of fields.
    """
    source = find(text)
    if not hasattr(_module(source.file), "sweep"):
        return None
    given = _call(source, "sweep")
    where = f"--config: sweep() of {str(source.file)!r}"
    if isinstance(given, (str, Mapping)):
        raise ValueError(f"{where} gave {given!r}; it must give a list of dicts.")
    try:
        changes = list(given)
    except Exception as error:  # of the user's generator
        raise ValueError(f"{where}: {_text(error, source.file)}") from error
    for change in changes:
        if not isinstance(change, Mapping) or not all(
            isinstance(field, str) for field in change
        ):
            raise ValueError(
                f"{where} has {change!r}; each must be a dict such as "
                "{'optimizer.learning_rate': 0.01}."
            )
    return [
        {field.removeprefix("config."): value for field, value in change.items()}
        for change in changes
    ]


def find(text: str) -> Source:
    """The file that a value of --config names.

    Raises:
        ValueError: there is none, with the nearest names.
    """
    name, colon, argument = text.partition(":")
    if colon and Path(text).is_file():
        name, colon = text, ""
    given = argument if colon else None
    names = packaged_names()
    if name in names:
        return Source(PACKAGED / f"{name}.py", given)
    path = Path(name).expanduser()
    if path.is_file():
        return Source(path, given)
    if path.is_dir():
        raise ValueError(f"--config: {name!r} is a folder; name a file in it.")
    if path.suffix or len(path.parts) > 1:
        known = path.stem in names
        hint = f"; there is a packaged one: --config={path.stem}" if known else ""
        raise ValueError(f"--config: no file {name!r}{hint}.")
    for stem in sorted(names, key=len, reverse=True):  # digits_vdm is digits:vdm
        if given is None and name.startswith(f"{stem}_"):
            return Source(PACKAGED / f"{stem}.py", name.removeprefix(f"{stem}_"))
    from score_sde.types import choices_text

    hint = choices_text(name, names)
    raise ValueError(f"--config: no packaged config {name!r}{hint}, or give FILE.py")


def _registered(source: Source) -> set[tuple[str, str]]:
    """The names of all parts; none for a packaged file, or one that can add none."""
    if source.file.parent == PACKAGED or "score_sde" not in source.file.read_text():
        return set()
    from score_sde.run.sections import registered_names

    return registered_names()


def _read_run(workdir: Path) -> dict[str, Any]:
    """The config that the run in workdir was trained with."""
    path = workdir / "config.json"
    if not path.exists():
        raise ValueError(f"no config: give --config=FILE, or a --workdir with {path}.")
    from score_sde.runtime.folder import read_config

    return read_config(workdir)


def _module(file: Path) -> ModuleType:
    """Run a config file, as a member of a package that is its folder."""
    folder = file.resolve().parent
    package = f"configs_{abs(hash(folder))}"
    if package not in sys.modules:
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(folder)]
    name = f"{package}.{file.stem.replace('.', '_')}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"--config: {str(file)!r} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ValueError(f"--config: {_text(error, file)}") from error
    return module


def _call(source: Source, function: str) -> Any:
    """Call a function of a config file, with the argument if there is one."""
    file, argument = source
    module = _module(file)
    if not hasattr(module, function):
        raise ValueError(f"--config: {str(file)!r} has no function {function}().")
    arguments = () if argument is None else (argument,)
    try:
        inspect.signature(getattr(module, function)).bind(*arguments)
    except TypeError:
        takes = f"--config: {function}() of {str(file)!r}"
        if arguments:
            raise ValueError(f"{takes} takes no argument {argument!r}.") from None
        raise ValueError(f"{takes} needs an argument: give {file}:WORD.") from None
    try:
        return getattr(module, function)(*arguments)
    except (Exception, SystemExit) as error:
        raise ValueError(f"--config: {_text(error, file)}") from error


def _text(error: BaseException, file: Path) -> str:
    """One line on what a config file raised, with its line."""
    frames = [
        (Path(frame.filename), frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen")
    ]
    here = [line for path, line in frames if path.resolve() == file.resolve()]
    line = here[-1] if here else None
    if isinstance(error, SyntaxError) and not here:
        line = error.lineno
    text = f"{str(file)!r}" + (f", line {line}" if line else "")
    said = " ".join(str(error).split())
    text += f": {said} ({type(error).__name__})" if said else f": {error!r}"
    if here and frames[-1][0].resolve() != file.resolve():
        text += f", raised in {frames[-1][0].name}, line {frames[-1][1]}"
    return text


def _no_literals(value: Any, path: str = "") -> Iterator[str]:
    """Name the fields of a config that no config.json can hold."""
    from ml_collections import ConfigDict, FieldReference

    if isinstance(value, (Mapping, ConfigDict)):
        items = (
            value.items(preserve_field_references=True)
            if isinstance(value, ConfigDict)
            else value.items()
        )
        for key, item in items:
            if not isinstance(key, str):
                yield f"{path or 'the config'} has the key {key!r}, which is no string"
            else:
                yield from _no_literals(item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _no_literals(item, path)
    elif not isinstance(value, (FieldReference, bool, int, float, str, type(None))):
        yield f"{path} is {value!r}, a {type(value).__name__}; it must be a literal"
