"""The files that describe a run: its config, and what it ran on."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.types import UserError

Arrays = dict[str, np.ndarray]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "diffrax", "numpy")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes `path` if nothing goes wrong meanwhile.

    What stood there before stays whole until then; the folder is made if needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with replaced(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


def save_arrays(path: Path, arrays: Arrays, *, compress: bool = False) -> None:
    """Write an npz file, whole or not at all."""
    save = np.savez_compressed if compress else np.savez
    with replaced(path) as partial, partial.open("wb") as file:
        save(file, **arrays)  # type: ignore[arg-type]


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        UserError: if that is not what is there.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no object.")
    return content


def read_config(workdir: Path) -> dict[str, Any]:
    """Read the config that a run was trained with.

    Raises:
        UserError: if there is no run in that folder, or its config is damaged.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"no run in {workdir}: there is no {path}.")
    return _tuples(read_json(path))


def _tuples(value: Any) -> Any:
    """JSON has no tuples: every list of a saved config was one."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@contextmanager
def new_run(workdir: Path) -> Iterator[Path]:
    """Give a folder to be filled, which becomes workdir if nothing goes wrong.

    Raises:
        UserError: if workdir is there and not an empty folder.
    """
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


def describe_run(
    workdir: Path,
    config: dict[str, Any],
    *,
    complete: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: config,
    allow_change: bool = False,
) -> None:
    """Write config.json and environment.json into workdir.

    Args:
        workdir: the folder of the run.
        config: the resolved config.
        complete: adds the defaults of fields that there were none of when a config was
            stored.
        allow_change: whether the run may go on with a config that changes what it
            learns; a table of the changes is printed then.

    Raises:
        UserError: with that table, if a change is not allowed: in other sections than
            those of `FREE_TO_CHANGE`.
    """
    path = workdir / "config.json"
    if path.exists():
        rows = _changes(complete(read_json(path)), config)
        table = "\n".join(rows)
        if rows and not allow_change:
            raise UserError(
                f"the run in {workdir} was trained with another config; use another "
                "--workdir, the old values, or --allow_config_change:\n" + table
            )
        if rows:
            print("the config is another from here on:\n" + table)
    write_json(path, config)
    write_json(workdir / "environment.json", environment())


def environment() -> dict[str, Any]:
    """Versions of the packages, the git revision and the devices."""
    import jax

    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_revision": git_revision(),
        "devices": [str(device) for device in jax.devices()],
    }


def git_revision() -> str | None:
    """Revision of this source tree, '+dirty' if it has changes, None outside git."""
    here = Path(__file__).parent
    try:
        revision = _git(here, "rev-parse", "HEAD")
        changes = _git(here, "status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision + ("+dirty" if changes else "")


def _git(directory: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(directory), *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


FREE_TO_CHANGE = (
    *("train", "devices", "sampler", "grid", "guidance", "threshold", "extra"),
    *("sampling", "likelihood", "editing"),
    # Where the data lie, and how they are read.
    *("data.folder", "data.path", "data.test_path", "data.num_workers"),
)
"""Sections and fields that don't decide what a run learns."""


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """A line for each field that decides what a run learns and is another now."""
    old, new = (json.loads(json.dumps(config)) for config in (old, new))
    return [
        f"  {section}.{field}: {was} -> {now}"
        for section in sorted(old.keys() | new.keys())
        if section not in FREE_TO_CHANGE
        for field, was, now in _differences(old.get(section), new.get(section))
        if f"{section}.{field}" not in FREE_TO_CHANGE
    ]


def _differences(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [] if old == new else [("", old, new)]
    keys = sorted(old.keys() | new.keys())
    return [(k, old.get(k), new.get(k)) for k in keys if old.get(k) != new.get(k)]
