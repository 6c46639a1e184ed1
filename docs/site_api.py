"""The reference of every public name, as pages for mkdocstrings.

What is public is read from the source, and nothing is imported: the names that
`score_sde/__init__.py` exports, those that a package re-exports as themselves, and
those of a module that don't begin with an underscore.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "score_sde"
BESIDES = (
    *("few_step_likelihood", "fields", "integrate", "multistep_flow", "rules"),
    *("latents", "losses.flow_maps", "losses.jump_divergences", "losses.pairs"),
    *("run.objectives", "run.open", "samplers.grids", "step_sizes"),
    "weights.published",
)
"""Modules that the package does not export, whose names users meet all the same."""
REGISTERED = {"samplers": ("loop.py", "SAMPLERS")}
"""Package -> the file and the registry of classes that are known by a name, and that
the package does not export."""


def modules() -> list[str]:
    """The modules of the reference, by their names below score_sde."""
    exported = [
        name
        for name in _exports(PACKAGE / "__init__.py")
        if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()
    ]
    return sorted({*exported, *BESIDES})


def public_names(module: str) -> list[str]:
    """The public names of a module, in the order of its source."""
    folder = _path(module)
    if not folder.is_dir():
        return _defined(folder)
    init = folder / "__init__.py"
    names = [*_exports(init), *_defined(init)]
    here = {path.stem for path in folder.glob("*.py")}
    elsewhere = {path.stem for path in PACKAGE.glob("*.py")} - here
    return [
        name
        for name in names
        if name not in elsewhere and (name not in here or _is_defined(folder, name))
    ]


def pages() -> dict[str, str]:
    """Path of a page -> its text, of the whole reference."""
    found = {"api/index.md": _index()}
    for module in modules():
        found[f"api/{module}.md"] = _page(module)
    return found


def _page(module: str) -> str:
    here = _path(module)
    entries = []
    for name in public_names(module):
        # The file of a function that has its name would stand for it.
        file = f"{name}." if (here / f"{name}.py").exists() else ""
        entries.append(f"::: score_sde.{module}.{file}{name}")
    head = f"# score_sde.{module}\n\n{_docstring(module)}"
    named = registered(module)
    if named:
        lines = ["## By name", "| name | class |\n|---|---|"]
        lines[1] += "".join(
            f"\n| `{name}` | [`{home.rpartition('.')[2]}`][{home}] |"
            for name, home in named.items()
        )
        entries += [*lines, *(f"::: {home}" for home in dict.fromkeys(named.values()))]
    return "\n\n".join([head, *entries]) + "\n"


def registered(package: str) -> dict[str, str]:
    """Name -> full name of the class, of the registry that a package has."""
    if package not in REGISTERED:
        return {}
    file, registry = REGISTERED[package]
    path = PACKAGE / package / file
    homes = {
        alias.name: f"{node.module}.{alias.name}"
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    content = _assigned(path, registry)
    assert isinstance(content, ast.Dict)
    return {
        ast.literal_eval(name): homes[ast.unparse(value)]
        for name, value in zip(content.keys, content.values, strict=True)
        if name is not None
    }


def _index() -> str:
    lines = ["# Reference", "", "`import score_sde as ss`", ""]
    lines += ["| module | what |", "|---|---|"]
    for module in modules():
        said = _docstring(module).partition("\n\n")[0].replace("\n", " ")
        said = said.partition(": ")[0] if len(said) > 110 else said
        lines.append(
            f"| [`{module}`]({module}.md) | {said.replace('|', chr(92) + '|')} |"
        )
    homes = ast.literal_eval(_assigned(PACKAGE / "__init__.py", "_NAMES"))
    lines += ["", "## Names of the package itself", ""]
    for module, names in homes.items():
        for name in names.split():
            home = f"score_sde.{module}.{name}"
            is_module = f"{module}.{name}" in modules()
            link = f"({module}.{name}.md)" if is_module else f"[{home}]"
            lines.append(f"- [`ss.{name}`]{link}")
    return "\n".join(lines) + "\n"


def _path(module: str) -> Path:
    """The folder of a package, or the file of a module."""
    path = PACKAGE.joinpath(*module.split("."))
    return path if path.is_dir() else path.with_suffix(".py")


def _docstring(module: str) -> str:
    path = _path(module)
    file = path / "__init__.py" if path.is_dir() else path
    return ast.get_docstring(ast.parse(file.read_text())) or ""


def _exports(file: Path) -> list[str]:
    """Names that a file imports as themselves."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            found += [a.name for a in node.names if a.asname == a.name]
    return found


def _defined(file: Path) -> list[str]:
    """Names that a file defines, without those that begin with an underscore."""
    found = []
    for node in ast.parse(file.read_text()).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.append(name)
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.append(name)
            case ast.Assign(targets=[ast.Name(id=name)]):
                found.append(name)
    return list(dict.fromkeys(n for n in found if not n.startswith("_")))


def _is_defined(folder: Path, name: str) -> bool:
    """Whether a module of a package defines its own name, as a function does."""
    return name in _defined(folder / f"{name}.py")


def _assigned(file: Path, name: str) -> ast.expr:
    for node in ast.parse(file.read_text()).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=found)], value=value) if found == name:
                return value
            case ast.AnnAssign(target=ast.Name(id=found), value=value) if (
                found == name and value is not None
            ):
                return value
    raise LookupError(f"{file} assigns no {name}")
