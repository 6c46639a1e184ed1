"""Tables and pages that the registries and the records of benchmarks write.

A page asks for one by a line `<!-- table: NAME -->`. What is registered later, or
measured again, shows up the next time the site is built.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from score_sde.networks import count_parameters  # noqa: E402
from score_sde.precondition import PRECONDITIONERS  # noqa: E402
from score_sde.samplers import SAMPLERS, grids  # noqa: E402
from score_sde.sde import SDES  # noqa: E402
from score_sde.weights.published import PUBLISHED  # noqa: E402

BUDGETS = (5, 10, 20, 35, 50, 100)
SIGMA_DATA = 0.5


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def first_sentence(thing: Any) -> str:
    """Return the first sentence of a part's docstring; "" of one that has none."""
    text = inspect.getdoc(thing) if thing.__doc__ else ""
    if not text or text.startswith(f"{getattr(thing, '__name__', '')}("):
        return ""
    return " ".join(text.split("\n\n")[0].split())


def samplers() -> str:
    """Every sampler: what it is, what a step costs, which order was measured."""
    sigmas = grids.karras(20, sigma_min=0.02, sigma_max=20.0)
    orders = _measured_orders()
    rows = []
    for name, kind in SAMPLERS.items():
        sampler = kind()
        try:
            evals = f"{float(sampler.num_evals(sigmas)) / 20:.2g}"
        except ValueError:  # one that chooses its steps
            evals = "as it needs"
        noise = "yes" if sampler.stochastic else "no"
        flow, strong = orders.get(name, ("", ""))
        rows.append([f"`{name}`", first_sentence(kind), noise, evals, flow, strong])
    head = [
        "name",
        "what",
        "draws noise",
        "evaluations a step",
        "order",
        "strong order",
    ]
    return table(head, rows)


def _measured_orders() -> dict[str, tuple[str, str]]:
    """Name -> (order of the flow, strong order); "" for one that was not measured."""
    return {
        row["sampler"]: (_order(row.get("flow")), _order(row.get("strong")))
        for row in _record("orders")["rows"]
    }


def _order(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def sdes() -> str:
    """Every SDE: its levels, and what its prior leaves of the data."""
    rows = []
    for name, kind in SDES.items():
        sde = kind()
        alpha, sigma = float(sde.alpha(sde.t_max)), float(sde.sigma(sde.t_max))
        # KL of data of this spread, noised, to the prior, in nats a dimension.
        ratio = (SIGMA_DATA / sigma) ** 2
        left = 0.5 * (ratio - float(jnp.log1p(jnp.asarray(ratio))))
        lowest = float(sde.sigma(sde.t_min))
        values = [f"{lowest:.2g} to {sigma:.4g}", f"{alpha:.3g}", f"{left:.1e}"]
        rows.append([f"`{name}`", first_sentence(kind), *values])
    head = ["name", "what", "sigma", "alpha at the end", "left of the data (nats/dim)"]
    return table(head, rows)


def preconditioners() -> str:
    """Every preconditioner."""
    rows = [[f"`{name}`", first_sentence(f)] for name, f in PRECONDITIONERS.items()]
    return table(["name", "what"], rows)


def budgets() -> str:
    """The three best samplers on the digits by the number of evaluations."""
    rows = [r for r in _record("samplers")["digits"] if r["sampler"] != "data"]
    found = []
    for budget in BUDGETS:
        near = [r for r in rows if 0.8 * budget <= r["evals"] <= budget]
        best: dict[str, float] = {}
        for row in sorted(near, key=lambda r: r["distance"]):
            best.setdefault(row["sampler"], row["distance"])
        top = [f"`{name}` {value:.3g}" for name, value in list(best.items())[:3]]
        found.append([budget, *top])
    return table(["evaluations", "nearest to the data", "second", "third"], found)


def solvers() -> str:
    """Solvers of the likelihood: evaluations, and the error of the solver alone."""
    rows = [
        [r["solver"], f"{r['evaluations']:.0f}", f"{r['rms_error']:.1e}"]
        for r in _record("solvers")["rows"]
        if "rms_error" in r
    ]
    rows.sort(key=lambda row: int(row[1]))
    return table(["solver, tolerance", "evaluations", "rms error (bits/dim)"], rows)


def configs() -> str:
    """Every packaged config: data, parts, parameters, and what was published."""
    rows = []
    for path in sorted((ROOT / "configs").glob("[a-z]*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        lines = [p for p in text.split("\n\n") if not p.startswith("    ")]
        said = " ".join(" ".join(lines[:1]).split())
        result = next((p for p in lines if p.startswith("Published")), "")
        parts, parameters = _built(path.stem)
        rows.append(
            [f"`{path.stem}`", said, parts, parameters, " ".join(result.split())]
        )
    head = ["`--config=`", "what", "SDE, network, sampler", "parameters", "published"]
    return table(head, rows)


def _built(name: str) -> tuple[str, str]:
    """The parts that a config names, and the number of its parameters."""
    from experiments.launch import load_config
    from score_sde.run import companions
    from score_sde.run.build import ConfigError, build
    from score_sde.run.train import initial_params

    config = load_config(name, ROOT)
    named = ", ".join(f"`{config[s]['name']}`" for s in ("sde", "network", "sampler"))
    try:
        experiment = build(config)
    except ConfigError as error:
        if "it needs another run" not in str(error):
            raise
        return named, "of the run that it begins from"
    expected = companions.expected(experiment)
    params = jax.eval_shape(lambda: initial_params(experiment, expected.params))
    return named, f"{count_parameters(params):,}"


def weights() -> str:
    """Every published model that can be imported."""
    rows = [
        [
            f"`{name}`",
            f"`{p.network}`",
            " x ".join(map(str, p.shape)),
            f"`{p.precondition}`",
            f"`{p.file}`" if p.file else "",
        ]
        for name, p in PUBLISHED.items()
    ]
    head = ["`--network=`", "network", "example", "preconditioner", "released as"]
    return table(head, rows)


def programs() -> str:
    """Every program of the command line."""
    from experiments.cli import programs as known

    rows = [
        [f"`score-sde {name.replace('_', '-')}`", line.partition(": python -m")[0]]
        for name, line in known().items()
    ]
    return table(["program", "what"], rows)


def records() -> str:
    """Every record of a benchmark: who writes it, where, when and with what."""
    rows = []
    for path in sorted((ROOT / "benchmarks").glob("*.json")):
        content = json.loads(path.read_text())
        about = content if isinstance(content, dict) else {}
        versions = about.get("versions", about)
        origin = ", ".join(
            f"{key} {versions[key]}"
            for key in ("jax", "flax", "diffrax")
            if key in versions
        )
        module = path.with_suffix(".py")
        if not module.exists():  # one of several records, as conditional_text is
            module = path.with_name(path.stem.rpartition("_")[0] + ".py")
        said = first_line(module) if module.exists() else ""
        rows.append(
            [
                f"[{path.stem}](records/{path.name})",
                said,
                about.get("machine", ""),
                about.get("date", ""),
                origin,
            ]
        )
    return table(["record", "what", "machine", "date", "versions"], rows)


def citation() -> str:
    """The entry of CITATION.cff, for BibTeX."""
    import yaml  # here alone: it comes with mkdocs and with Flax

    entry = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    authors = " and ".join(f"{{{a['name']}}}" for a in entry["authors"])
    fields = {
        "title": f"{{{entry['title']}}}",
        "author": authors,
        "version": entry["version"],
        "license": entry["license"],
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join(["```bibtex", "@software{score_sde,", *lines, "}", "```"])


def first_line(path: Path) -> str:
    """The first line of a module's docstring, without the command that runs it."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.partition("\n")[0].partition(": python -m")[0]


TABLES: dict[str, Callable[[], str]] = {
    "budgets": budgets,
    "citation": citation,
    "configs": configs,
    "preconditioners": preconditioners,
    "programs": programs,
    "records": records,
    "samplers": samplers,
    "sdes": sdes,
    "solvers": solvers,
    "weights": weights,
}


def fill(text: str) -> str:
    """The text of a page with its tables.

    Raises: KeyError for a table that there is not.
    """
    return re.sub(r"<!-- table: (\w+) -->", lambda m: TABLES[m[1]](), text)


def _record(name: str) -> dict[str, Any]:
    return json.loads((ROOT / f"benchmarks/{name}.json").read_text())


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
