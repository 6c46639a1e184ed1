"""The recipes of docs/: their syntax, and that their commands exist."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from experiments import launch, train

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "docs/recipes").iterdir())


def commands(text):
    """Every `python -m experiments.NAME ...` of a recipe, as words."""
    joined = re.sub(r"\\?\n\s+(?=--)", " ", text)
    for line in re.findall(r"python -m experiments\.[^\n;|&]*", joined):
        if line.count('"') % 2:  # the end of a command in quotes
            line = line.rstrip('"')
        yield shlex.split(line.replace("\\$", "$"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_a_recipe_is_well_formed_and_trains(path):
    if path.suffix == ".sh":
        subprocess.run(["bash", "-n", path], check=True)
    else:
        yaml = pytest.importorskip("yaml")
        recipe = yaml.safe_load(path.read_text())
        assert recipe["kind"] == "JobSet"
    found = list(commands(path.read_text()))
    programs = [words[2].removeprefix("experiments.") for words in found]
    assert "train" in programs
    for program in programs:
        assert (ROOT / "experiments" / f"{program}.py").is_file()
    words = found[programs.index("train")][3:]
    words = [
        "--config=configs/digits.py" if w.startswith("--config=") else w for w in words
    ]
    words = [w for w in words if not w.startswith(("&", ";"))]
    command = launch.parse("", words, flags=train.FLAGS)
    assert (command.hosts is not None) == (path.name != "gpus.sh")
