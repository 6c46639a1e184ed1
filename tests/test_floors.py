"""The house: who may import whom, what import costs, what a stranger may not find."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def floors():
    """The floors that CONTRIBUTING.md draws, from the ground up: the names of each."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    drawn = text.split("```floors\n")[1].split("```")[0]
    return [floor.split() for floor in drawn.split("<")]


FLOORS = floors()
LEVEL = {name: level for level, floor in enumerate(FLOORS) for name in floor}
GROUND = FLOORS[0]  # in this order
OWNERS = {
    "flax": {"networks", "latents", "weights"},
    "diffrax": {"integrate", "step_sizes", "multistep_flow", "samplers", "likelihood"},
    "lineax": {"samplers"},
    "optax": {"training"},
    "orbax": {"training"},
    "sklearn": {"data"},
    "tensorflow_datasets": {"data"},
    "grain": {"data"},
    "tensorboardX": {"training"},
    "safetensors": {"weights"},
    "PIL": {"data", "evaluation"},
    "matplotlib": {"evaluation"},
    "ml_collections": set(),
}
FILES = sorted((ROOT / "score_sde").rglob("*.py"))


def room(path):
    """The name under score_sde that a file belongs to."""
    return path.relative_to(ROOT / "score_sde").parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "score_sde":
                yield from (f"score_sde.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_the_floors(path):
    here = room(path)
    if here == "__init__":
        return
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "score_sde" and rest:
            there = rest.split(".")[0]
            if there == here:
                continue
            if LEVEL[here] == LEVEL[there] == 0:
                assert GROUND.index(there) < GROUND.index(here), (
                    f"{here} imports {there}"
                )
            else:
                assert LEVEL[there] < LEVEL[here], f"{here} imports {there}"
        elif package in OWNERS:
            assert here in OWNERS[package], f"{here} imports {package}"


def test_every_room_has_a_floor():
    rooms = {room(path) for path in FILES} - {"__init__"}
    assert rooms == LEVEL.keys()


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_importing_the_library_imports_nothing_heavy():
    heavy = (
        "flax",
        "diffrax",
        "optax",
        "orbax",
        "sklearn",
        "matplotlib",
        "ml_collections",
    )
    code = f"import sys, score_sde; print([m for m in {heavy} if m in sys.modules])"
    assert run(code).strip() == "[]"


PROGRAMS = sorted(
    path.stem
    for path in (ROOT / "experiments").glob("*.py")
    if "launch.run(" in path.read_text()
)


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_imports_nothing_heavy(name):
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('experiments.{name}', run_name='__main__')\n"
        "except SystemExit: print([m for m in ('jax', 'numpy') if m in sys.modules])"
    )
    out = run(code)
    assert "--workdir" in out
    assert out.strip().endswith("[]")


def test_no_file_can_run_code_when_it_is_loaded():
    for path in FILES:
        text = path.read_text()
        for word in (
            "import pickle\n",
            "pickle.load",
            "allow_pickle=True",
            "Unpickler",
        ):
            assert word not in text, f"{path} has {word}"
        for word in (
            r"\beval\(",
            r"\bexec\(",
            r"\b__import__\b",
            r"\bimportlib\b(?!\.metadata)",
        ):
            # A user's own modules are imported by name, in one place.
            of_users = path.name == "parts.py" and "importlib" in word
            assert of_users or not re.search(word, text), f"{path} has {word}"
        # Pickles are parsed, never run: by the parser of the standard library alone.
        assert ("pickletools" in text) == (path.name == "unpickle.py"), path


def test_the_package_says_one_version():
    import tomllib

    import score_sde

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == score_sde.__version__
