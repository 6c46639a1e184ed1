"""Write the reference in docs/config.md, all sections and fields, from the code.

    python docs/make_config_page.py

What stands above the mark is written by hand, and kept. A test compares the rest with
what this script writes.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from score_sde.fields import MISSING, Field, kinds_of, kinds_text  # noqa: E402
from score_sde.run import sections  # noqa: E402
from score_sde.run.making import ENDS_OF_GRID  # noqa: E402
from score_sde.run.tasks import TASKS  # noqa: E402

PAGE = Path(__file__).parent / "config.md"
MARK = "<!-- Below: written by docs/make_config_page.py. -->\n"

MEANINGS = {
    "chain": "The discrete chain of noise levels that a network is trained on.",
    "companions": "Other runs that this one uses, by role.",
    "data": "Where the examples come from, and how training is fed.",
    "sde": "The process that adds noise.",
    "conditions": "What the network is told of an example, and what of a sample.",
    "network": "The network.",
    "precondition": "How a network's output becomes denoised data.",
    "noise_levels": "The noise levels of training.",
    "weight": "The weight of the squared error at each noise level.",
    "objective": "What training minimises.",
    "optimizer": "How parameters move.",
    "train": "How long, and what is kept.",
    "devices": "How a training step is spread over devices.",
    "sampler": "How a sample moves from one noise level to the next.",
    "grid": "The noise levels of sampling.",
    "guidance": "How samples are guided.",
    "threshold": "A correction of the denoised data.",
    "sampling": "How many samples.",
    "likelihood": "How log-likelihoods are computed.",
    "editing": "What is done to a picture.",
    "restoration": "How a picture is restored from what was measured of it.",
    "features": "What `evaluate` compares.",
    "metrics": "How `evaluate` compares.",
    "evaluation": "What `evaluate` compares samples with.",
}

COMMON = {
    "t_min": "the time at which the data are reached.",
    "t_max": "the time of the prior.",
    "beta_min": "beta(t) at the beginning.",
    "beta_max": "beta(t) at the end.",
    "sigma_min": "the lowest noise level.",
    "sigma_max": "the highest noise level.",
    "channels": "their number at full resolution.",
    "multipliers": "of the channels, after 0, 1, 2, ... halvings.",
    "blocks_per_level": "residual blocks on the way down.",
    "attention_resolutions": "heights at which there is self-attention.",
    "num_heads": "heads of the attention.",
    "dropout": "the share of activations that training drops.",
    "embedding": "waves that tell the noise level.",
    "width": "features of the hidden layers.",
    "depth": "how many blocks there are.",
    "stratified": "whether a batch's draws are one random shift of an even grid.",
    "eta": "how much noise is added: 0 for none, 1 for that of the reverse SDE.",
    "s_noise": "inflates the added noise.",
    "shape": "the shape of one example.",
    "num_levels": "grey levels of the stored integers; 0 for points and latents.",
    "num_classes": "how many labels there are; 0 for none.",
    "folder": "where the prepared data are; by default, where TensorFlow Datasets puts "
    "them.",
    "sigma_data": "the standard deviation of the scaled data.",
    "beta_schedule": "how beta grows along the chain.",
    "num_train_timesteps": "how many levels the chain has.",
    "beta_start": "the first beta of the schedules that have one.",
    "beta_end": "the last beta of the schedules that have one.",
    "zero_terminal_snr": "whether the chain ends without signal.",
    "method": "the optimiser.",
    "learning_rate": "its highest value.",
    "adam_learning_rate": "that of the parameters that Muon leaves to AdamW.",
    "warmup_steps": "steps over which the learning rate rises.",
    "schedule": "how the learning rate falls afterwards.",
    "cycles": "how often all of that happens, in equal parts of training.",
    "sigmas": "the levels where steps begin, decreasing; the last one ends at 0.",
    "decay_start_steps": "where `inverse_sqrt` begins to fall.",
    "clip_norm": "the longest gradient; longer ones are scaled down to it.",
    "b1": "decay of the mean of gradients.",
    "b2": "decay of the mean of their squares.",
    "eps": "added to the root of that mean.",
    "weight_decay": "decoupled from the gradient.",
    "num_samples": "how many are drawn.",
    "batch_size": "how many are computed at once.",
    "task": "what is asked of the picture.",
    "c_1": "C_1 of the ladder (Karras et al. 2022, table 1).",
    "c_2": "C_2 of the ladder (Karras et al. 2022, table 1).",
    "mean": "of log sigma.",
    "std": "of log sigma.",
    "gamma": "the highest SNR that counts.",
    "bias": "of log SNR.",
    "r": "that fraction.",
    "alpha": "that fraction.",
    "rho": "that degree.",
    "beta_d": "how much beta grows from t = 0 to 1.",
    "eps_s": "the last time.",
    "low": "the lower end.",
    "high": "the upper end.",
}
"""Field -> what it means, where no docstring says it."""


def reference() -> str:
    """The part of the page that is written by the code."""
    blocks = [_overview(), *(_section(name) for name in sections.SECTIONS)]
    return "\n\n".join(blocks) + "\n"


def page(text: str) -> str:
    """The page whose part above the mark is that of `text`."""
    by_hand = text.partition(MARK)[0]
    return f"{by_hand}{MARK}\n{reference()}"


def _overview() -> str:
    rows = []
    for name, kind in sections.SECTIONS.items():
        if kind.is_required:
            without = "must be there"
        elif kind.default is None:
            without = "none"
        elif kind.is_open:
            without = ", ".join(f"`{entry}`" for entry in kind.default) or "none"
        else:
            chosen = kind.default.get("name")
            without = f"`{chosen}`" if chosen else "the defaults"
        rows.append(f"| [`{name}`](#{name}) | {MEANINGS[name]} | {without} |")
    head = "| section | what | left out |\n|---|---|---|"
    return "## Sections\n\n" + "\n".join([head, *rows])


def _section(name: str) -> str:
    kind = sections.SECTIONS[name]
    text = [f"## {name}", MEANINGS[name]]
    if kind.registry is None:
        assert kind.settings is not None
        if kind.is_open:
            text.append("Every entry, by its role, has the fields:")
        text.append(_table(name, kind.settings))
        return "\n\n".join(text)
    if kind.settings is not None:
        text += ["Whatever `name` is:", _table(name, kind.settings)]
    for names, constructor in _alternatives(kind.registry):
        called = ", ".join(f"`{n}`" for n in names)
        title = called if kind.is_open else f"`name`: {called}"
        first = _first_sentence(constructor)
        text.append(f"**{title}**" + (f" {first}" if first else ""))
        rows = sections.option_fields(name, constructor)
        if rows:
            text.append(_table(name, constructor))
    return "\n\n".join(text)


def _alternatives(
    registry: Mapping[str, Callable[..., Any]],
) -> list[tuple[list[str], Callable[..., Any]]]:
    """Names and what they pick; those with the same function stand together."""
    found: dict[Any, tuple[list[str], Callable[..., Any]]] = {}
    for name, constructor in registry.items():
        function = inspect.unwrap(constructor)
        if function.__module__.partition(".")[0] != "score_sde":
            continue  # a user's part, which is registered in this process
        same = (getattr(function, "__code__", function), function.__qualname__)
        found.setdefault(same, ([], constructor))[0].append(name)
    return list(found.values())


def _own(choices: Collection[str]) -> list[str]:
    """Choices in order, without tasks that a user has registered."""
    if choices is not TASKS:
        return sorted(choices)
    makers = {name: task.measurement for name, task in TASKS.items()}
    ours = "score_sde.run.tasks"
    return sorted(n for n, f in makers.items() if f is None or f.__module__ == ours)


def _table(section: str, constructor: Callable[..., Any]) -> str:
    said = descriptions(constructor)
    rows = [
        f"| `{name}` | {_kind(field)} | {_default(section, field)} "
        f"| {_cell(said.get(name) or _common(section, name))} |"
        for name, field in sections.option_fields(section, constructor).items()
    ]
    return "\n".join(
        ["| field | a value | default | what |", "|---|---|---|---|", *rows]
    )


def _common(section: str, name: str) -> str:
    if name == "num_steps":
        is_grid = section == "grid"
        return "steps." if is_grid else "how many steps its program counts."
    return COMMON.get(name, "")


def _kind(field: Field) -> str:
    choices = [c for rule in field.rules for c in _own(rule.choices)]
    if choices:
        return _cell(", ".join(f"`{c}`" for c in choices))
    kinds = kinds_of(field.kind)
    text = kinds_text(kinds) if kinds else "a number"
    rules = ", ".join(rule.text for rule in field.rules)
    rules = rules.replace(" and finite", "")  # which every number is by default
    return _cell(f"{text}, {rules}" if rules else text).replace("of Any", "any")


def _default(section: str, field: Field) -> str:
    if field.default is MISSING:
        is_end = section == "grid" and field.name in ENDS_OF_GRID
        return "of the SDE" if is_end else "**must be given**"
    if isinstance(field.default, float) and math.isinf(field.default):
        return "`inf`"
    return f"`{field.default!r}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _first_sentence(constructor: Callable[..., Any]) -> str:
    documented = vars(constructor) if inspect.isclass(constructor) else {}
    text = documented.get("__doc__") or (
        "" if inspect.isclass(constructor) else inspect.getdoc(constructor) or ""
    )
    paragraph = inspect.cleandoc(text).split("\n\n")[0]
    if paragraph.startswith(f"{getattr(constructor, '__name__', '')}("):
        return ""  # what dataclasses write where there is nothing
    return _cell(paragraph)


def descriptions(constructor: Callable[..., Any]) -> dict[str, str]:
    """Field -> what docstrings say of it, in Args, in Attributes or below the field."""
    found: dict[str, str] = {}
    if not inspect.isclass(constructor):
        return _blocks(inspect.getdoc(constructor) or "")
    for base in reversed(constructor.__mro__):
        if base.__module__.partition(".")[0] != "score_sde":
            continue
        found |= dict(_attribute_docstrings(base))
        found |= _blocks(inspect.cleandoc(vars(base).get("__doc__") or ""))
    return found


def _blocks(docstring: str) -> dict[str, str]:
    """Name -> text, of the blocks Args and Attributes of a docstring in Google form."""
    found = {}
    for block in re.findall(
        r"^(?:Args|Attributes):\n((?:(?:    .*)?\n)+)", docstring + "\n", re.M
    ):
        for entry in re.split(r"\n(?=\S)", textwrap.dedent(block).strip()):
            names, colon, text = entry.partition(":")
            if colon:
                found |= {n.strip(): text.strip() for n in names.split(",")}
    return found


def _attribute_docstrings(cls: type) -> Iterator[tuple[str, str]]:
    """(field, the string that stands below it) of a class."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):
        return
    body = tree.body[0].body  # type: ignore[attr-defined]
    for field, below in zip(body, body[1:], strict=False):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text() if PAGE.exists() else ""))
