"""The package: what it installs, what its import costs, its console command."""

import ast
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import setuptools

import score_sde
from experiments import cli

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command, cwd=ROOT, code=0, **environment):
    # As a user has it: the flags of these tests make long programs slow.
    theirs = {"PYTHONPATH", "XLA_FLAGS"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if k not in theirs} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def quickest(*command, **options):
    """Seconds that a command takes, the best of five.

    Of the processor, so that it doesn't count how long it waited for other tests.
    """
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(*command, **options)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime)
        times[-1] -= before.ru_utime + before.ru_stime
    return min(times)


def test_every_folder_with_modules_is_installed(monkeypatch):
    given = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.chdir(ROOT)
    exec((ROOT / "setup.py").read_text(), {})
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("score_sde/**/*.py")}
    inside = {"score_sde.experiments", "score_sde.configs"}
    assert set(given["packages"]) == {".".join(f.parts) for f in folders} | inside
    for name in inside:
        assert (ROOT / given["package_dir"][name] / "__init__.py").is_file()


def test_what_describes_the_package_agrees():
    citation = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {PROJECT['version']}" in citation
    assert f"license: {PROJECT['license']}" in citation
    assert score_sde.__version__ == PROJECT["version"]
    extras = PROJECT["optional-dependencies"]
    assert {"cuda12", "cuda13", "tpu", "tfds", "wandb", "test", "dev"} <= extras.keys()
    (jax,) = (d for d in PROJECT["dependencies"] if d.startswith("jax>"))
    for name in ("cuda12", "cuda13", "tpu"):
        assert extras[name] == [jax.replace("jax", f"jax[{name}]")]


def test_names_are_imported_lazily_and_known_to_type_checkers():
    tree = ast.parse(Path(score_sde.__file__).read_text())
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    known = {}
    for node in block.body:
        module = node.module.removeprefix("score_sde").lstrip(".")
        for alias in node.names:
            assert alias.name == alias.asname
            known[alias.name] = f"{module}:{alias.name}" if module else f"{alias.name}:"
    assert known == score_sde._HOMES
    for name in known:
        assert getattr(score_sde, name) is not None
        assert name in dir(score_sde)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = score_sde.nothing


def test_importing_the_library_is_quick_and_leaves_jax_alone():
    code = "import sys, score_sde; assert not {'jax', 'numpy'} & sys.modules.keys()"
    assert quickest(sys.executable, "-c", code) < 0.6


def test_help_is_quick():
    assert quickest(sys.executable, "-m", "experiments.train", "--help") < 0.5


def test_the_command_lists_all_programs(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    for path in (ROOT / "experiments").glob("*.py"):
        text = path.read_text()
        if "launch.run(" in text or "def main(argv" in text and path.stem != "cli":
            assert f"  {path.stem.replace('_', '-')} " in out
    head = (ROOT / "experiments/train.py").read_text().partition(":")[0].strip('"')
    assert re.search(rf"\n  train +{head}\n", out)


def test_another_name_is_answered_by_the_nearest(capsys):
    assert cli.main(["smaple", "--workdir=a"]) == 2
    said = capsys.readouterr().err
    assert "no program 'smaple'; did you mean 'sample'?" in said
    assert cli.main(["cli"]) == 2


@pytest.mark.parametrize("name", ["import-weights", "import_weights", "sweep"])
def test_a_program_runs_by_its_name(name):
    code = f"from experiments import cli; cli.main(['{name}', '--help'])"
    out = run(sys.executable, "-c", code)
    assert out.startswith(f"usage: score-sde {name} ")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of the commands of an environment into which the wheel is installed.

    Its dependencies are those of these tests, which saves minutes.
    """
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"  # elsewhere, since setuptools keeps what it built once
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("score_sde", "experiments", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", f"--wheel-dir={folder}", source)
    (wheel,) = folder.glob("score_sde-*.whl")
    run(sys.executable, "-m", "venv", folder / "env")
    commands = folder / "env" / "bin"
    packages = next((folder / "env/lib").glob("*/site-packages"))
    before = set(packages.iterdir())
    (packages / "reuse.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(commands / "python", "-m", "pip", "install", "--no-deps", "--no-index", wheel)
    new = {path.name for path in set(packages.iterdir()) - before} - {"reuse.pth"}
    assert new == {"score_sde", f"{wheel.name.split('-py3')[0]}.dist-info"}
    return commands


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_works_from_any_folder(installed, tmp_path):
    def command(*words, code=0):
        return run(installed / "score-sde", *words, cwd=tmp_path, code=code)

    words = ["--config=digits", "--config.train.num_steps=20", "--workdir=a"]
    assert "step      20/20" in command("train", *words)
    few = "--config.sampling.num_samples=100"
    assert "100 samples of heun" in command("sample", "--workdir=a", few)
    rough = ["--config.likelihood.rtol=0.01", "--config.likelihood.atol=0.01"]
    rough += ["--config.likelihood.num_train=4", "--config.likelihood.bound_draws=2"]
    assert "360 examples" in command("likelihood", "--workdir=a", *rough)
    assert "trained" in command("status", "--workdir=a")
    sweep = ["sweep", "--config=points", "--workdir=b", "--grid.seed=0,1"]
    sweep += ["--config.train.num_steps=4", "--config.sampling.num_samples=4"]
    assert command(*sweep).count("trained") >= 2
    mine = "from score_sde.configs import points\nget_config = points.get_config\n"
    (tmp_path / "mine.py").write_text(mine)
    said = command("train", "--config=mine.py", "--workdir=c", "--dry_run")
    assert '"rings"' in said
    assert "did you mean 'digits'" in command(
        "train", "--config=digit", "--workdir=d", code=2
    )
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b", "mine.py"}


@pytest.mark.slow
def test_the_wheel_answers_quickly(installed, tmp_path):
    command = installed / "score-sde"
    assert quickest(command, "train", "--help", cwd=tmp_path) < 0.5
