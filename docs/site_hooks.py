"""Hooks of mkdocs: tables, reference, notebooks and formulas for the pages of docs/.

mkdocs calls the functions `on_...` by their names. Pages that exist elsewhere in the
checkout (CONTRIBUTING, CHANGELOG, notebooks) are added, and links to them follow.
"""

from __future__ import annotations

import base64
import html
import json
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs"))

import site_api  # noqa: E402
import site_tables  # noqa: E402

FIRST = [
    {"Home": "index.md"},
    {"Quickstart": "quickstart.md"},
    {"What there is": "pieces.md"},
    {"Choose your pieces": "choose.md"},
]
CONCEPTS = [
    f"notebooks/{name}.md" for name in ("anatomy", "tour", "conditional", "stages")
]
HOW_TO = [
    *("own_experiment.md", "data.md", "parts.md", "python.md", "training.md"),
    *("likelihood.md", "guidance.md", "evaluation.md", "weights.md", "networks.md"),
    "few_steps.md",
]
TABLES = ["samplers.md", "tables.md", "config.md"]
TRUST = ["measured.md", "verified.md", "checks.md", "reliability.md"]
MORE = ["coming_from.md", "troubleshooting.md", "contributing.md", "changelog.md"]
OF_THE_SITE = {"index.md", "quickstart.md", "pieces.md", "choose.md"}
ELSEWHERE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
OFFLINE_SCRIPT = "https://unpkg.com/iframe-worker/shim"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def on_config(config: Any) -> Any:
    """Set the navigation; a page of docs/ that is not listed is a how-to page."""
    # Once more: mkdocs takes away what was added while it imported this file.
    sys.path.append(str(ROOT))
    listed = {*OF_THE_SITE, *HOW_TO, *TABLES, *TRUST, *MORE}
    others = sorted(
        p.name for p in (ROOT / "docs").glob("*.md") if p.name not in listed
    )
    config.nav = [
        *FIRST,
        {"Concepts": CONCEPTS},
        {"How to": HOW_TO + others},
        {"Tables": TABLES},
        {"Gallery": "gallery.md"},
        {"Reference": [{"Overview": "api/index.md"}, *_reference()]},
        {"Measured and verified": TRUST},
        {"More": MORE},
    ]
    return config


def _reference() -> list[dict[str, str]]:
    return [{module: f"api/{module}.md"} for module in site_api.modules()]


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are written from elsewhere, and leave out scripts."""
    kept = Files([f for f in files if not f.src_uri.endswith((".py", ".pyc"))])
    texts = dict(site_api.pages())
    for name, page in ELSEWHERE.items():
        texts[page] = _moved((ROOT / name).read_text())
    for path in NOTEBOOKS:
        text, pictures = notebook(path)
        texts[f"notebooks/{path.stem}.md"] = text
        for name, content in pictures.items():
            kept.append(File.generated(config, f"notebooks/{name}", content=content))
    texts["gallery.md"] = gallery(texts)
    for page, text in texts.items():
        kept.append(File.generated(config, page, content=text))
    for record in sorted((ROOT / "benchmarks").glob("*.json")):
        uri = f"records/{record.name}"
        kept.append(File.generated(config, uri, content=record.read_bytes()))
    return kept


def _moved(text: str) -> str:
    """A page of the root of the checkout, with its links from docs/."""
    text = text.replace("](docs/", "](")
    # The drawing of the floors is no language that is known.
    return re.sub(r"^```floors$", "```text", text, flags=re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in tables, and lead links out of docs/ to the pages of the site."""
    markdown = site_tables.fill(markdown)
    for name, page in {"README.md": "index.md", **ELSEWHERE}.items():
        markdown = markdown.replace(f"](../{name}", f"]({page}")
    markdown = re.sub(
        r"\]\(\.\./notebooks/(\w+)\.ipynb", r"](notebooks/\1.md", markdown
    )
    markdown = re.sub(
        r"\]\((\.\./)?benchmarks/(\w+)\.json", r"](records/\2.json", markdown
    )
    return re.sub(r"\]\((\.\./)?configs[\w/.]*\)", "](tables.md)", markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Write formulas as MathML, which browsers draw without a script or a font."""

    def drawn(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        formula = html.unescape(match[2]).strip()[2:-2]
        return convert(formula, display=display)

    pattern = r'<(span|div) class="arithmatex">(.*?)</\1>'
    return re.sub(pattern, drawn, content, flags=re.DOTALL)


def on_post_build(config: Any) -> None:
    """Take the script that makes search work in files from here, and not from afar."""
    site = Path(config.site_dir)
    for page in site.rglob("*.html"):
        up = "../" * (len(page.relative_to(site).parts) - 1)
        text = page.read_text().replace(OFFLINE_SCRIPT, f"{up}search_offline.js")
        page.write_text(text)


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook with its outputs as a page, and its pictures by name."""
    lines: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", source), ""]
            continue
        fenced = f"```python\n{source}\n```"
        lines += ['??? code "Code"', "", *(f"    {n}" for n in fenced.split("\n")), ""]
        for output in cell["outputs"]:
            if "text" in output:
                lines += ["```text", "".join(output["text"]).rstrip(), "```", ""]
            picture = output.get("data", {}).get("image/png")
            if picture:
                name = f"{path.stem}_{len(pictures)}.png"
                pictures[name] = base64.b64decode("".join(picture))
                title = re.match(r"# \w+: (.*)", source)
                lines += [f"![{title[1] if title else path.stem}]({name})", ""]
    return "\n".join(lines), pictures


def gallery(texts: dict[str, str]) -> str:
    """All pictures of all pages, each with what is said of it and its page."""
    pages = {p.name: p.read_text() for p in sorted((ROOT / "docs").glob("*.md"))}
    pages |= {name: texts[name] for name in CONCEPTS}
    figures = []
    for page, text in pages.items():
        folder = page.rpartition("/")[0]
        for said, file in re.findall(r"!\[([^\]]*)\]\(([\w./]+)\)", text):
            source = f"{folder}/{file}".lstrip("/")
            kind = ' class="clear"' if "anatomy" in source else ""
            address = page.replace(".md", ".html")
            figures.append(
                f'<figure><a href="{address}"><img src="{source}" alt="{said}"'
                f' loading="lazy"{kind}></a><figcaption>{said}</figcaption></figure>'
            )
    figures = list(dict.fromkeys(figures))
    head = "# Gallery\n\nEach picture leads to the page that says how it was made.\n\n"
    return head + '<div class="gallery">\n' + "\n".join(figures) + "\n</div>\n"
