"""The site: every public name, page and link; its commands, from a clean folder."""

import json
import os
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
from as_a_user import DOCS, ROOT, blocks, commands, run

import score_sde as ss

API = runpy.run_path(str(DOCS / "site_api.py"))
PAGES = sorted(path.name for path in DOCS.glob("*.md"))


def test_every_public_name_is_in_the_reference():
    pages = API["pages"]()
    for name, home in ss._HOMES.items():
        module, _, attribute = home.partition(":")
        page = pages[f"api/{module}.md"]
        assert (
            not attribute
            or f"::: score_sde.{module}.{attribute}"
            in (page + pages.get(f"api/{module}.{name}.md", "") + pages["api/index.md"])
            or f"({module}.{name}.md)" in pages["api/index.md"]
        )
    # What a package exports to its users, by its own list.
    for module in ("anatomy", "elbo", "guidance", "networks", "samplers", "training"):
        known = set(API["public_names"](module))
        room = getattr(ss, module)
        exported = {
            name
            for name, value in vars(room).items()
            if not name.startswith("_")
            and callable(value)
            and getattr(value, "__module__", "").startswith(f"score_sde.{module}")
        }
        assert exported <= known, exported - known


def test_every_name_of_the_reference_is_there():
    from pkgutil import resolve_name

    for module in API["modules"]():
        for name in API["public_names"](module):
            resolve_name(f"score_sde.{module}:{name}")


def test_every_page_has_a_place_and_its_tables():
    hooks = (DOCS / "site_hooks.py").read_text()
    tables = runpy.run_path(str(DOCS / "site_tables.py"))["TABLES"]
    for name in re.findall(r'"([a-z_]+\.md)"', hooks):
        made = {"contributing.md", "changelog.md", "gallery.md"}
        assert name in made or (DOCS / name).exists(), name
    for page in PAGES:
        for name in re.findall(r"<!-- table: (\w+) -->", (DOCS / page).read_text()):
            assert name in tables, f"{page}: {name}"


def test_tables_have_a_row_for_everything_that_is_registered():
    made = runpy.run_path(str(DOCS / "site_tables.py"))
    for table, registry in (
        ("samplers", ss.samplers.SAMPLERS),
        ("sdes", ss.sde.SDES),
        ("preconditioners", ss.precondition.PRECONDITIONERS),
        ("weights", ss.weights.published.PUBLISHED),
    ):
        text = made["TABLES"][table]()
        missing = [name for name in registry if f"| `{name}` |" not in text]
        assert not missing, table
    text = made["TABLES"]["citation"]()
    assert text.startswith("```bibtex\n@software{score_sde,")
    assert f"version = {{{ss.__version__}}}" in text
    rows = json.loads((ROOT / "benchmarks/samplers.json").read_text())["digits"]
    near = [r for r in rows if 8 <= r["evals"] <= 10]
    best = min(near, key=lambda r: r["distance"])
    text = made["TABLES"]["budgets"]()
    assert f"| 10 | `{best['sampler']}` {best['distance']:.3g} |" in text
    assert "multistep" in made["TABLES"]["solvers"]()


@pytest.mark.slow
def test_every_config_file_has_a_row():
    text = runpy.run_path(str(DOCS / "site_tables.py"))["TABLES"]["configs"]()
    files = [path.stem for path in (ROOT / "configs").glob("[a-z]*.py")]
    assert len(files) > 25
    for name in files:
        assert f"| `{name}` |" in text, name


# But those that other tests of this process registered.
SAMPLERS = {
    name: kind
    for name, kind in ss.samplers.SAMPLERS.items()
    if kind.__module__.startswith("score_sde.")
}


def test_orders_on_the_page_are_those_of_the_record():
    rows = json.loads((ROOT / "benchmarks/orders.json").read_text())["rows"]
    # Two choose their steps, so that they have no order.
    assert {r["sampler"] for r in rows} == set(SAMPLERS) - {
        "dpm_adaptive",
        "adaptive_sde",
    }
    page = (DOCS / "samplers.md").read_text()
    for row in rows:
        if "flow" in row:
            strong = f"{row['strong']:.2f}" if "strong" in row else ""
            numbers = f"{row['flow']:.2f} | {row['error']:.1e} | {strong} |"
            assert f"| {row['sampler']} | {numbers}" in page, row


def test_every_sampler_is_in_the_reference_by_its_class():
    page = API["pages"]()["api/samplers.md"]
    named = API["registered"]("samplers")
    for name, kind in SAMPLERS.items():
        assert named[name] == f"{kind.__module__}.{kind.__qualname__}"
        assert f"::: {named[name]}" in page


class Links(HTMLParser):
    """Addresses of a page, and the names that others may lead to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.names = [], [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.names |= {values.get("id"), values.get("name")}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag in ("script", "img", "link") and values.get("rel") != "canonical":
            self.loaded.append(values.get("src") or values.get("href") or "")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_site_is_written_and_all_its_links_are_alive(tmp_path):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("latex2mathml")
    words = ["-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    # 404.html is for servers, which lead from any address to the site's root.
    files = set(tmp_path.rglob("*.html")) - {tmp_path / "404.html"}
    pages = {path.resolve(): Links(path) for path in files}
    assert len(pages) > 40
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"\w+:", link):
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), f"{path.name}: {link}"
            if anchor and target in pages:
                assert anchor in pages[target].names, f"{path.name}: {link}"
        assert not [a for a in page.loaded if a.startswith(("http", "//"))], path
    anatomy = (tmp_path / "notebooks/anatomy.html").read_text()
    assert anatomy.count("<math ") >= 4
    assert "arithmatex" not in anatomy


def what_the_quickstart_is_given(folder):
    """Pictures of mixed sizes and modes, and a table of 16 columns."""
    from PIL import Image

    random = np.random.default_rng(0)
    (folder / "my_pictures").mkdir()
    for i in range(40):
        height, width = random.integers(16, 40, 2)
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels)
        mode = ("RGB", "L", "P")[i % 3]
        picture.convert(mode).save(folder / f"my_pictures/{i}.png")
    rows = random.normal(size=(300, 16)) * np.arange(1, 17) + 5
    head = ",".join(f"column {i}" for i in range(16))
    np.savetxt(folder / "table.csv", rows, delimiter=",", header=head, comments="")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_quickstart_and_the_likelihood_work_from_a_clean_folder(folder):
    what_the_quickstart_is_given(folder)
    for words in [*commands("quickstart.md"), *commands("likelihood.md")]:
        run(words, folder)
    (folder / "snippets.py").write_text("".join(blocks("likelihood.md", "python")))
    run([sys.executable, "snippets.py"], folder)
    for name in ("points", "pictures", "table"):
        assert (folder / f"runs/{name}/samples.png").exists()
        assert (folder / f"runs/{name}/likelihood.json").exists()
    # In the units of the table, whose columns have means of 5.
    drawn = np.load(folder / "runs/table/samples.npz")["samples"]
    assert drawn.shape == (100, 16)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_an_experiment_of_ones_own_works_from_a_clean_folder(folder):
    for words in commands("own_experiment.md"):
        run(words, folder)
    assert (folder / "my_experiment/run/likelihood.json").exists()
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    assert "2 passed" in run([*words, "my_experiment"], folder)
    again = ["score-sde", "new", "my_experiment"]
    done = subprocess.run(
        again, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "my_experiment is there already" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_example_of_the_home_page_prints_what_it_says():
    text = (DOCS / "index.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (said,) = re.findall(r"held-out points: (-?[\d.]+) nats\n", text)
    names = {}
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        exec(code, names)
    # Another machine rounds otherwise, and training amplifies it.
    assert float(names["nats"].mean()) == pytest.approx(float(said), abs=0.1)
    assert np.isfinite(names["samples"]).all()
