"""The pages: commands exist and have the fields that they name, snippets run."""

import importlib
import itertools
import re
import runpy
import shlex
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import launch, new, prepare_data, train
from experiments.cli import programs
from experiments.config_files import open_config
from experiments.overrides import apply
from score_sde.fields import value_problem
from score_sde.run import sections
from score_sde.run.build import build

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
PROGRAM = re.compile(r"(?:python -m experiments\.|score-sde )([a-z][\w-]*)([^\n|;]*)")


def blocks(text):
    """(language, content) of every fenced block; "" for one of commands."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def code(path):
    """The text of a page that is code, or the whole text of a Python file."""
    text = path.read_text()
    if path.suffix == ".py":
        return text
    fenced = [content for _, content in blocks(text)]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return "\n".join([*fenced, *re.findall(r"`([^`]+)`", prose)])


def commands():
    """(where, program, words) of every command in the pages and the configs."""
    for path in (*PAGES, *CONFIGS):
        joined = re.sub(r"(\\\n[ \t]*|\n[ \t]+(?=--))", " ", code(path))
        for program, rest in PROGRAM.findall(joined):
            if rest.count("'") % 2:  # the end of a command in quotes
                rest = rest.rstrip().removesuffix("'")
            words = shlex.split(rest, comments=True)
            yield path.name, program.replace("-", "_"), words


COMMANDS = list(commands())
IDS = [f"{where}-{program}-{i}" for i, (where, program, _) in enumerate(COMMANDS)]


def value_of(words, flag):
    found = [w.partition("=")[2] for w in words if w.startswith(f"{flag}=")]
    return found[-1] if found else None


def trained():
    """Folder of a run -> the config that some page trains there."""
    found = {"runs/digits": "digits", "runs/mine": "digits"}
    for _, program, words in COMMANDS:
        config, workdir = value_of(words, "--config"), value_of(words, "--workdir")
        if program == "train" and config and workdir:
            found.setdefault(workdir, config)
    return found


RUNS = trained()


def own_file(tmp_path):
    """mine.py of docs/parts.md."""
    snippet = dict(blocks((ROOT / "docs/parts.md").read_text()))["python"]
    file = tmp_path / "mine.py"
    file.write_text(snippet)
    return file


@pytest.fixture
def registries():
    """Registries as they were, after a test that adds to them."""
    found = [k.registry for k in sections.SECTIONS.values() if k.registry]
    found = [getattr(registry, "maps", [registry])[0] for registry in found]
    before = [dict(registry) for registry in found]
    yield
    for registry, content in zip(found, before, strict=True):
        registry.clear()
        registry.update(content)


def problems(config):
    """What is wrong with the fields of a complete config, by their signatures alone."""
    for section, content in config.items():
        if section in sections.PLAIN:
            continue
        kind = sections.SECTIONS[section]
        parts = content.items() if kind.is_open else [("", content)]
        for entry, options in parts:
            if kind.is_open:
                constructor = sections.entry_constructor(section, entry)
                if constructor is None:
                    yield f"{section}.{entry}"
                    continue
                fields = sections.option_fields(section, constructor)
            else:
                fields = sections.section_fields(section, options)
                if kind.registry is not None and options["name"] not in kind.registry:
                    yield f"{section}.name"
            for name, value in options.items():
                if name == "name" and kind.registry is not None:
                    continue
                if name not in fields or value_problem(fields[name], value):
                    yield f"{section}.{entry}.{name} = {value!r}"


@pytest.mark.parametrize(("where", "program", "words"), COMMANDS, ids=IDS)
def test_commands_exist_with_their_fields(where, program, words, tmp_path, registries):
    assert program in programs(), f"{where}: no program {program}"
    flags = [word for word in words if word.startswith("-")]
    if not flags or program == "status" or "--help" in flags:
        return
    if program == "prepare_data" and prepare_data.converts(flags):
        names = {flag.removeprefix("--").partition("=")[0] for flag in flags}
        assert names <= set(prepare_data.CONVERSION)
        return
    if program == "sweep":  # each value of a grid is one of a field
        flags = [
            word.partition(",")[0].replace("--grid.", "--config.")
            for word in flags
            if not word.startswith(("--jobs", "--task", "--likelihood"))
        ]
    module = importlib.import_module(f"experiments.{program}")
    default = getattr(module, "default_config", None)
    if value_of(flags, "--workdir") is None:
        flags.append("--workdir=runs/mine")
    config = value_of(flags, "--config")
    if config is None and default is None:
        config = RUNS.get(value_of(flags, "--workdir"), "digits")
    if config in ("mine.py", "mine.py:WORD"):
        config = str(own_file(tmp_path))
    if config == "my_experiment/config.py":  # which `score-sde new` writes
        config = str(tmp_path / config)
        assert new.main([str(tmp_path / "my_experiment")]) == 0
    flags = [word for word in flags if not word.startswith("--config=")]
    command = launch.parse(
        "",
        flags if config is None else [f"--config={config}", *flags],
        options=getattr(module, "OPTIONS", None),
        flags=getattr(module, "FLAGS", None),
        default=default,
    )
    assert not list(problems(command.config))


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_a_command_of_several_lines_is_one_to_the_shell(path):
    for _, content in blocks(path.read_text()):
        for line, after in itertools.pairwise(content.splitlines()):
            if re.match(r"\s+--\w", after):
                assert line.endswith("\\"), line


FILES = ("py", "json", "jsonl", "png", "npz")
INLINE = re.compile(
    r"(?:--config\.)?([a-z_]+)\.([a-z_]+)(?:\.([a-z_]+))?(?:=.*|: \w+)?"
)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_fields_named_in_prose_exist(path):
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for span in re.findall(r"`([^`]+)`", prose):
        match = INLINE.fullmatch(span)
        if not match or match[1] not in sections.SECTIONS or match[2] in FILES:
            continue
        section, field, inner = match.groups()
        kind = sections.SECTIONS[section]
        if kind.registry is None and kind.is_open:  # of roles, which are free
            known = {inner, *sections.option_fields(section, kind.settings)}
            assert inner is None or inner in known, span
            continue
        parts = (kind.registry or {"": kind.settings}).items()
        if kind.is_open:
            parts = [(name, part) for name, part in parts if name == field]
            assert parts, span
            if inner is None:
                continue
            field = inner
        known = {"name"} | (set() if kind.is_open else _settings(section))
        for _, part in parts:
            known |= sections.option_fields(section, part).keys()
        assert field in known, f"{path.name}: {span}"


def _settings(section):
    settings = sections.SECTIONS[section].settings
    return sections.option_fields(section, settings).keys() if settings else set()


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_and_modules_lead_somewhere(path):
    text = path.read_text()
    text = re.sub(r"```python\n.*?```", "", text, flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
        assert (path.parent / link).exists(), link
    for anchor in re.findall(r"\]\(#([\w-]+)\)", text):
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert anchor in {re.sub(r"\W+", "-", t.lower()) for t in titles}, anchor
    for name in re.findall(r"python -m (benchmarks\.\w+)", text):
        assert (ROOT / f"{name.replace('.', '/')}.py").exists(), name
    for name in re.findall(r"`configs/(\w+\.py)", text):
        assert (ROOT / "configs" / name).exists(), name
    for name in re.findall(r"`score_sde\.([\w.]+)", text):
        from pkgutil import resolve_name

        resolve_name(f"score_sde.{name}")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_has_fields_that_exist(path):
    if path.stem.startswith("_"):
        return
    argument = "digits:label" if path.stem == "digits" else path.stem
    assert not list(problems(apply(open_config(argument, Path()), {})))


def test_the_reference_of_configs_is_what_the_code_says():
    made = runpy.run_path(str(ROOT / "docs/make_config_page.py"))
    text = (ROOT / "docs/config.md").read_text()
    assert text == made["page"](text), "run: python docs/make_config_page.py"
    undescribed = [line for line in text.splitlines() if line.endswith("|  |")]
    assert not undescribed


def snippets(page):
    text = (ROOT / "docs" / page).read_text()
    return [content for language, content in blocks(text) if language == "python"]


@pytest.mark.parametrize("page", ["config.md", "parts.md"])
def test_a_config_of_ones_own_builds(page, tmp_path, registries):
    (text,) = snippets(page)
    file = tmp_path / "mine.py"
    file.write_text(text)
    config = apply(open_config(str(file), Path()), {"train.num_steps": ["500"]})
    assert config["train"]["num_steps"] == 500
    if page == "config.md":
        assert config["optimizer"]["warmup_steps"] == 10  # a reference
    assert config["parts"] == ((str(file),) if page == "parts.md" else ())
    build(config)


@pytest.fixture
def as_a_user():
    """Without float64 and the strict promotion of these tests."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def run_snippets(some, folder):
    names = {}
    for snippet in some:
        snippet = snippet.replace('"runs/points"', repr(str(folder)))
        exec(snippet.replace("1_000", "2"), names)
    assert names["drawn"].shape == (16, 2)
    assert np.isfinite(names["drawn"]).all()
    assert not names["metrics"]["skipped"]
    return names


@pytest.mark.slow
@pytest.mark.parametrize("page", ["samplers.md", "guidance.md", "guided_laws.md"])
def test_snippets_that_need_no_run_do_what_they_say(page, as_a_user):
    names = {}
    for snippet in snippets(page):
        exec(snippet, names)
    drawn = names["out"].x if "out" in names else names["found"].x
    assert drawn.shape[1:] == (2,)
    assert np.isfinite(drawn).all()


def test_snippets_that_change_a_config_have_its_fields():
    config = SimpleNamespace()
    for snippet in snippets("cascades.md"):
        exec(snippet, {"config": config})
    data, companions = config.data, config.companions
    assert not list(problems({"data": data, "companions": companions}))
    changes = companions["low_resolution"]["changes"]
    inner = {"guidance": changes["guidance"], "companions": changes["companions"]}
    assert not list(problems(inner))


WRITERS = re.compile(r"python -m (benchmarks\.\w+)([^\n`]*)")


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_commands_of_benchmarks_have_their_options(path):
    """By the programs' sources: each takes minutes to hours to run."""
    text = re.sub(r"\\\n\s*", " ", path.read_text())
    for module, words in WRITERS.findall(text):
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
        known = set(re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", source))
        given = set(re.findall(r"(--[\w-]+)", words))
        assert given <= known | {"--help"}, f"{module}: {given - known}"


def test_names_of_the_package_on_pages_are_there():
    """Every `ss.name`, in snippets and in prose."""
    from pkgutil import resolve_name

    found = 0
    for path in PAGES:
        for name in re.findall(r"\bss\.([a-zA-Z_][\w.]*\w)", path.read_text()):
            resolve_name(f"score_sde:{name}")
            found += 1
    assert found > 80


@pytest.mark.slow
def test_a_loop_of_ones_own_trains(as_a_user):
    loop, plain, nnx = snippets("python.md")[-3:]
    names = run_snippets([loop, plain], None)
    assert names["state"].params.keys() == {"inside", "outside"}
    names = run_snippets([loop, nnx], None)
    assert int(names["state"].step) == 1
    assert jax.tree.leaves(names["state"].params)[0].shape[-1] in (2, 64)


@pytest.mark.slow
def test_runs_and_models_in_python(tmp_path, as_a_user):
    """The snippets of docs/python.md, on a run of a few steps."""
    folder = tmp_path / "points"
    words = [
        "--config=points",
        f"--workdir={folder}",
        *("--config.network.width=8", "--config.network.depth=1"),
        *("--config.train.num_steps=2", "--config.sampling.num_samples=4"),
        *("--config.data.batch_size=8", "--config.grid.num_steps=2"),
        *("--config.likelihood.rtol=0.1", "--config.likelihood.atol=0.1"),
    ]
    train.main(launch.parse("", words, flags=train.FLAGS))
    names = run_snippets(snippets("python.md"), folder)
    assert names["run"].step == 2
    assert names["nats"].shape == (8,)
    assert np.isfinite(names["bits"]).all()
    for drawn in (names["fewer"].x, names["x0"]):
        assert drawn.shape == (16, 2)
        assert np.isfinite(drawn).all()
    assert names["by_euler"].levels.shape == (16, 2)
