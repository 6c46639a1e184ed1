"""The files that describe a run: its config, and what it ran on."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.data.local import replaced
from score_sde.types import UserError

Arrays = dict[str, np.ndarray]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "diffrax", "numpy")


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
