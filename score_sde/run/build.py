"""From a config to objects: the only file that reads one.

A config is sections of literals. A section with alternatives has a `name`, a key of one
of the dictionaries below, and the arguments of what it names. The other sections are
the fields of a settings class. Whatever is wrong in any of them is found here, before
any device work, and reported together.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, get_type_hints

import numpy as np

from score_sde import conditions, data, losses, noise_levels, precondition, sde
from score_sde.conditions import Condition
from score_sde.data import Dataset
from score_sde.evaluation.plots import read_picture
from score_sde.guidance import GUIDANCES, THRESHOLDS
from score_sde.networks import (
    ADM,
    DDPM,
    EDM2,
    MLP,
    ControlledUNet,
    CrossUNet,
    DiT,
    Network,
    SongUNet,
    TextUNet,
    UNet,
    from_linen,
    with_image,
)
from score_sde.run.evaluation_settings import Editing, Sampling, Scoring
from score_sde.run.model import Experiment
from score_sde.run.rules import RULES, cross_check, fit_data
from score_sde.run.settings import Data, Loss, NoisyClassifier, Told
from score_sde.runtime.mesh import Devices
from score_sde.samplers import SAMPLERS, grids
from score_sde.schedules import chain_levels
from score_sde.training.loop import Training
from score_sde.training.optimizer import Optimizer
from score_sde.types import UserError, choices_text

SDES: dict[str, Callable[..., Any]] = {
    "vp": sde.VP,
    "subvp": sde.SubVP,
    "ve": sde.VE,
    "edm": sde.EDM,
    "cosine_vp": sde.CosineVP,
    "straight_line": sde.StraightLine,
}
NETWORKS: dict[str, Callable[..., Any]] = {
    "unet": UNet,
    "mlp": MLP,
    "ddpm": DDPM,
    "song_unet": SongUNet,
    "adm": ADM,
    "edm2": EDM2,
    "dit": DiT,
    "cross_unet": CrossUNet,
    "text_unet": TextUNet,
    "controlled_unet": ControlledUNet,
}
NOISE_LEVELS: dict[str, Callable[..., Any]] = {
    "uniform_time": noise_levels.UniformTime,
    "log_normal": noise_levels.LogNormal,
    "log_uniform": noise_levels.LogUniform,
    "ladder": noise_levels.Ladder,
    "likelihood_importance": noise_levels.LikelihoodImportance,
    "learned": noise_levels.Learned,
}

CLASSES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "sde": SDES,
    "network": NETWORKS,
    "noise_levels": NOISE_LEVELS,
    "sampler": SAMPLERS,
}
"""Sections whose name picks a constructor."""

FUNCTIONS: dict[str, Mapping[str, Callable[..., Any]]] = {
    "precondition": precondition.PRECONDITIONERS,
    "weight": losses.WEIGHTS,
    "grid": grids.GRIDS,
    "guidance": GUIDANCES,
    "threshold": THRESHOLDS,
}
"""Sections whose name picks a function, which gets the other fields as options."""

SETTINGS: dict[str, Callable[..., Any]] = {
    "data": Data,
    "condition": Told,
    "loss": Loss,
    "optimizer": Optimizer,
    "train": Training,
    "devices": Devices,
    "sampling": Sampling,
    "likelihood": Scoring,
    "editing": Editing,
    "classifier": NoisyClassifier,
}
"""Sections without alternatives."""

OPTIONAL: dict[str, Mapping[str, Any]] = {
    "condition": {},
    "guidance": {"name": "none"},
    "threshold": {"name": "none"},
    "editing": {},
    "classifier": {},
    "devices": {},
}
"""Sections that a config may leave out, and what they then are."""

NAMED: dict[str, Mapping[str, Callable[..., Any]]] = {**CLASSES, **FUNCTIONS}

# Arguments that come from elsewhere: another section, the caller, or Flax.
NOT_FIELDS = {
    "denoise",
    "log_prob",
    "logits",
    "name",
    "parent",
    "sde",
    "sigma",
    "sigma_data",
    "worse",
}


class ConfigError(UserError):
    """All that is wrong with a config, a line each."""

    def __init__(self, problems: list[str]):
        plural = "s" if len(problems) > 1 else ""
        super().__init__(
            "\n  ".join([f"{len(problems)} problem{plural} in the config:", *problems])
        )
        self.problems = problems


def build(config: Mapping[str, Any]) -> Experiment:
    """The experiment that a config describes.

    Args: `config`, a dict of sections.
    Raises: ConfigError with all problems: section, value, choices.
    """
    sections = {
        k: dict(v) if isinstance(v, Mapping) else v
        for k, v in {**OPTIONAL, **config}.items()
    }
    problems = [
        f"{name}: no such section{choices_text(name, {'seed', *NAMED, *SETTINGS})}"
        for name in sections.keys() - {"seed", *NAMED, *SETTINGS}
    ]
    built: dict[str, Any] = {}
    seed = sections.get("seed")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        problems.append(f"seed: must be an integer from 0 to 2^32 - 1, got {seed!r}")
    context: dict[str, Any] = {}
    for name in [*SETTINGS, *NAMED]:  # NAMED begins with the SDE, which others need
        found, built[name] = _build_section(name, sections.get(name), context)
        problems += found
        if name == "data" and not found:
            context["sigma_data"] = built[name].sigma_data
        if name == "sde":
            context["sde"] = built[name]
    if not problems:
        problems = cross_check(sections, built)
    if problems:
        raise ConfigError(problems)
    num_classes = sections["network"].get("num_classes", 0)
    dataset = _dataset(built["data"], num_classes)
    problems = fit_data(sections, built, dataset)
    if problems:
        raise ConfigError(problems)
    assert isinstance(seed, int)
    told = _conditions(built, dataset, num_classes)
    built["network"] = _network(built["network"], dataset, told)
    known = dict(sections["precondition"])
    known.pop("timestep_scale", None)  # of the network, not of the chain
    chain = chain_levels(**known) if known.pop("name") == "chain" else None
    return Experiment(
        seed=seed,
        chain=chain,
        dataset=dataset,
        num_classes=num_classes,
        conditions=told,
        **built,
    )


def network_module(config: Mapping[str, Any]) -> Any:
    """The Linen module of a config that builds."""
    options = dict(config["network"])
    return NETWORKS[options.pop("name")](**options)


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with every default written out, so that a run records them all.

    Fields that the named alternative doesn't have are kept, for `build` to report.
    """
    full: dict[str, Any] = {}
    for name, section in {**OPTIONAL, **config}.items():
        constructor = _constructor(name, section)
        if constructor is None or not isinstance(section, Mapping):
            full[name] = section
            continue
        defaults = {
            field: parameter.default
            for field, parameter in _fields(constructor).items()
            if parameter.default is not inspect.Parameter.empty
        }
        full[name] = {**defaults, **section}
        if name in NAMED:
            full[name] = {"name": section["name"], **full[name]}
    return full


def rename(section: Mapping[str, Any], name: str, section_name: str) -> dict[str, Any]:
    """The section with another alternative chosen, at the defaults of that one.

    Fields without a default are kept if both have them.
    """
    constructor = _constructor(section_name, {"name": name})
    fields = {} if constructor is None else _fields(constructor)
    needed = [k for k, p in fields.items() if p.default is inspect.Parameter.empty]
    return {"name": name} | {k: section[k] for k in needed if k in section}


def _constructor(name: str, section: Any) -> Callable[..., Any] | None:
    if name in SETTINGS:
        return SETTINGS[name]
    chosen = section.get("name") if isinstance(section, Mapping) else None
    return NAMED.get(name, {}).get(chosen) if isinstance(chosen, str) else None


def _fields(constructor: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(constructor).parameters)
    if constructor in SETTINGS.values():
        return parameters
    return {k: p for k, p in parameters.items() if k not in NOT_FIELDS}


def _build_section(
    name: str, section: Any, context: Mapping[str, Any]
) -> tuple[list[str], Any]:
    """(problems, object) of one section."""
    if not isinstance(section, dict):
        return [f"{name}: this section is missing"], None
    options = dict(section)
    constructor: Callable[..., Any]
    if name in NAMED:
        chosen = options.pop("name", None)
        if chosen not in NAMED[name]:
            hint = choices_text(chosen, NAMED[name])
            return [f"{name}.name is {chosen!r}{hint}"], None
        constructor = NAMED[name][chosen]
    else:
        constructor = SETTINGS[name]
    fields = _fields(constructor)
    problems = [
        f"{name}.{field}: no such field{choices_text(field, fields)}"
        for field in options.keys() - fields.keys()
    ]
    problems += [
        f"{name}.{field} is missing"
        for field, parameter in fields.items()
        if parameter.default is inspect.Parameter.empty and field not in options
    ]
    hints = get_type_hints(
        constructor if name in FUNCTIONS else _initialiser(constructor)
    )
    for field in options.keys() & fields.keys():
        problems += _check_value(name, field, options[field], hints.get(field))
    if problems:
        return problems, None
    parameters = inspect.signature(constructor).parameters
    options |= {k: v for k, v in context.items() if k in parameters and v is not None}
    if name in FUNCTIONS:
        return [], partial(constructor, **options)
    if "sde" in parameters and context.get("sde") is None:
        return [], None  # the SDE itself has been reported
    try:
        return [], constructor(**options)
    except ValueError as error:
        return [f"{name}: {error}"], None


def _initialiser(constructor: Callable[..., Any]) -> Any:
    return constructor.__init__ if inspect.isclass(constructor) else constructor


def _check_value(section: str, field: str, value: Any, hint: Any) -> list[str]:
    """Type of a field, and its rule where no dataclass has it."""
    wrong = f"{section}.{field} is {value!r}"
    items = getattr(hint, "__args__", ())
    if isinstance(hint, UnionType) and float in items:  # Scalar
        hint = float
    kind = getattr(hint, "__origin__", hint)
    if kind is tuple and items:
        item = items[0]
        if not isinstance(value, (tuple, list)) or not all(_is(v, item) for v in value):
            return [f"{wrong}; it must be a tuple of {item.__name__}"]
    elif isinstance(kind, type) and not _is(value, kind):
        return [f"{wrong}; it must be {kind.__name__}"]
    if (section in FUNCTIONS or section == "network") and field in RULES:
        text, holds = RULES[field]
        if not holds(value):
            return [f"{wrong}; it must be {text}"]
    return []


def _is(value: Any, kind: Any) -> bool:
    """Whether a value has a type; an int is a float, a bool is neither."""
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    return True


def _dataset(settings: Data, num_classes: int) -> Dataset:
    name, shape = settings.name, settings.shape
    format = data.Format(shape, settings.num_levels or None, num_classes)
    if name == data.ABSENT:
        return data.absent(format)
    if name == data.FILES:
        return data.files(format, settings.path, settings.test_path)
    if name in data.TFDS:
        return data.tfds_set(name, shape, settings.folder)
    return data.DATASETS[name]()


def _conditions(
    built: Mapping[str, Any], dataset: Dataset, num_classes: int
) -> tuple[Condition, ...]:
    """All that the network is told, in the order of the section `sampling`."""
    settings, wanted = built["condition"], built["sampling"]
    levels, made = dataset.num_levels, []
    if isinstance(built["network"], TextUNet):
        made.append(conditions.words(wanted.caption, wanted.labels))
    elif num_classes:
        made.append(conditions.label(wanted.labels, num_classes=num_classes))
    if settings.attributes:
        some = np.arange(min(2_000, len(dataset.train)))
        made.append(
            conditions.vector(
                settings.attributes,
                wanted.vector,
                examples=dataset.train[some]["values"],
                num_levels=levels,
            )
        )
    if settings.image != "none":
        make = conditions.IMAGES[settings.image]
        if settings.image == "small":
            make = partial(make, factor=settings.factor)
        stated = None
        if wanted.image:
            assert levels is not None  # `fit_data` has seen to it
            picture = read_picture(Path(wanted.image), dataset.shape)
            stated = picture * (levels - 1)
        made.append(conditions.image(make, stated, num_levels=levels))
    return tuple(made)


def _network(module: Any, dataset: Dataset, told: tuple[Condition, ...]) -> Network:
    shape, cond = dataset.shape, conditions.of_blank(told, dataset.shape)
    if cond is None or "image" not in cond or isinstance(module, ControlledUNet):
        return from_linen(module, shape, cond)
    channels = shape[-1] + cond.pop("image").shape[-1]
    return with_image(from_linen(module, (*shape[:-1], channels), cond or None))
