"""A user's own modules, which add parts to the registries when they are imported."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def load(parts: Any) -> list[str]:
    """Import the modules of the field `parts`, once each; return the problems.

    Args:
        parts: names of modules, such as "my_package.my_parts", or paths of .py files.
    """
    if isinstance(parts, str) or not isinstance(parts, Sequence):
        return [f"parts is {parts!r}; it must be a tuple of modules or .py files"]
    return [text for part in parts if (text := _problem_of(part))]


def digest_of(part: str) -> str:
    """A digest of the source of a part that was imported."""
    if part.endswith(".py"):
        source = Path(part).read_bytes()
    else:
        file = getattr(sys.modules[part], "__file__", None)
        source = Path(file).read_bytes() if file else b""
    return hashlib.sha256(source).hexdigest()[:16]


def _problem_of(part: Any) -> str | None:
    if not isinstance(part, str):
        return f"parts has {part!r}; it must be the name of a module or a .py file"
    try:
        if part.endswith(".py"):
            import_file(Path(part))
        else:
            importlib.import_module(part)
    except Exception as error:  # a user's module may raise anything
        return f"parts: {part} can't be imported: {type(error).__name__}: {error}"
    return None


def import_file(path: Path) -> Any:
    """Import a Python file as a module, once however often it is asked for.

    Raises:
        FileNotFoundError: if it is not there.
    """
    path = path.resolve()
    name = f"score_sde_parts_{abs(hash(str(path))):x}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
