"""The sections of a config: which there are, and what each may name.

A section with alternatives has a `name`, a key of a registry, and the options of what
it names. An open section has entries, each a section of its own. Whoever adds a part to
a registry, in a config file or in a module that `parts` lists, can name it in a config.
"""

from __future__ import annotations

import inspect
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from score_sde import losses, noise_levels, precondition, sde
from score_sde.conditions import CONDITIONS
from score_sde.data import SOURCES
from score_sde.editing import METHODS
from score_sde.evaluation import FEATURES, METRICS
from score_sde.fields import MISSING, Field, fields_of, is_literal
from score_sde.guidance import GUIDANCES, THRESHOLDS, is_model
from score_sde.latents import AUTOENCODERS
from score_sde.networks import NETWORKS
from score_sde.run.autoencoding import Autoencoding
from score_sde.run.objectives import OBJECTIVES
from score_sde.run.settings import (
    Chain,
    Companion,
    Data,
    Editing,
    Evaluation,
    Sampling,
    Scoring,
)
from score_sde.run.students_consistency import CONSISTENCY
from score_sde.run.students_flow_maps import FLOW_MAPS
from score_sde.run.students_likelihood import LIKELIHOODS
from score_sde.run.students_teacher import Direct, Progressive
from score_sde.runtime.mesh import Devices
from score_sde.samplers import SAMPLERS, grids
from score_sde.training.optimizer import Optimizer
from score_sde.training.settings import Training

OBJECTIVES |= {"progressive": Progressive, "direct": Direct, **CONSISTENCY, **FLOW_MAPS}
OBJECTIVES |= LIKELIHOODS
Registry = Mapping[str, Callable[..., Any]]
OBJECTIVES["autoencoder"] = Autoencoding


class Section(NamedTuple):
    """The kind of a section."""

    registry: Registry | None = None
    """The alternatives that its name picks from; None for settings alone."""
    settings: Callable[..., Any] | None = None
    """The settings class of its fields, beside those of an alternative."""
    called_with: int | None = None
    """For parts that are functions, kept with their options bound: how many arguments
    they are called with by place. None for constructors."""
    default: Mapping[str, Any] | None = None
    """The section where a config leaves it out; None for none at all."""
    is_required: bool = False
    """Whether a config must have it."""
    is_open: bool = False
    """Whether it has entries, by name, each with the fields of a part of the registry
    or, without one, of the settings class."""


METRICS_TAKEN: Mapping[str, Any] = {
    "frechet_distance": {},
    "kernel_distance": {},
    "precision_recall": {},
}
"""What is measured of samples unless a config says otherwise."""

SECTIONS: dict[str, Section] = {
    "chain": Section(settings=Chain, default={}),
    "companions": Section(settings=Companion, is_open=True, default={}),
    "data": Section(SOURCES, Data, is_required=True),
    "sde": Section(sde.SDES, is_required=True),
    "conditions": Section(CONDITIONS, is_open=True, default={}),
    "network": Section(ChainMap(NETWORKS, AUTOENCODERS), is_required=True),
    "precondition": Section(
        precondition.PRECONDITIONERS, called_with=1, is_required=True
    ),
    "noise_levels": Section(noise_levels.NOISE_LEVELS),
    "weight": Section(losses.WEIGHTS, called_with=1),
    "objective": Section(OBJECTIVES, called_with=4, default={"name": "denoising"}),
    "optimizer": Section(settings=Optimizer, default={}),
    "train": Section(settings=Training, is_required=True),
    "devices": Section(settings=Devices, default={}),
    "sampler": Section(SAMPLERS, is_required=True),
    "grid": Section(grids.GRIDS, called_with=0, is_required=True),
    "guidance": Section(GUIDANCES, called_with=1, default={"name": "none"}),
    "threshold": Section(THRESHOLDS, called_with=1, default={"name": "none"}),
    "sampling": Section(settings=Sampling, default={}),
    "likelihood": Section(settings=Scoring, default={}),
    "editing": Section(settings=Editing, default={}),
    "restoration": Section(METHODS, called_with=3, default={"name": "pseudo_inverse"}),
    "features": Section(FEATURES, called_with=0, default={"name": "values"}),
    "metrics": Section(METRICS, called_with=2, is_open=True, default=METRICS_TAKEN),
    "evaluation": Section(settings=Evaluation, default={}),
}
"""In the order in which they are built: a section is given what earlier ones made."""

NAMED = tuple(
    name for name, s in SECTIONS.items() if s.registry is not None and not s.is_open
)
"""Sections with a name."""

PLAIN = ("seed", "parts", "extra")
"""What a config has beside its sections."""

CHAIN_FIELDS = tuple(fields_of(Chain))
STATED_IN = {
    "sigma_data": "data.sigma_data",
    "shape": "data",
    "num_labels": "data",
    "num_classes": "conditions.label",
    "num_words": "conditions.words",
    "vector_dims": "conditions.vector",
    "augment_dims": "conditions.augment",
    **dict.fromkeys(CHAIN_FIELDS, "chain"),
}
"""Options of parts that a config states elsewhere, once -> the section or field."""
NOT_OPTIONS = ("name", "parent")
"""Arguments that Flax adds to every module."""
OBJECTS = ("dataset", "sde", "noise_levels", "weight", "rngs")
"""Arguments that other sections give, which no literal can be."""
GIVEN_LATER = {
    "metrics": ("held_out",),
    "restoration": ("noise_std", "grid", "origin"),
}
"""Arguments of parts that whoever calls them has: a metric's features of other data,
the noise of a picture, the levels that are sampled on, and what is noised to start."""


def constructor_of(section: str, content: Any) -> Callable[..., Any] | None:
    """The class or function that the name of a section picks, None for a wrong one."""
    kind = SECTIONS[section]
    if kind.registry is None:
        return kind.settings
    name = content.get("name") if isinstance(content, Mapping) else None
    return kind.registry.get(name) if isinstance(name, str) else None


def option_fields(section: str, constructor: Callable[..., Any]) -> dict[str, Field]:
    """The fields of a part of this section that a config may set.

    They are the arguments that a literal can be, but for those stated elsewhere.
    """
    kind = SECTIONS[section]
    skip = 0 if inspect.isclass(constructor) else kind.called_with or 0
    elsewhere = () if constructor is Chain or section == "data" else STATED_IN
    later = GIVEN_LATER.get(section, ())
    without = {*NOT_OPTIONS, *elsewhere, *later}
    found = {
        name: field
        for name, field in fields_of(constructor, skip=skip, without=without).items()
        # Without a type and a default, these names can only mean what they are.
        if not (name in OBJECTS and field.kind is None and field.default is MISSING)
    }
    is_option = (lambda f: not is_model(f)) if section == "guidance" else is_literal
    return {name: field for name, field in found.items() if is_option(field)}


def section_fields(section: str, content: Any) -> dict[str, Field]:
    """The fields that a config may set in a section as it stands, but for its name."""
    kind, constructor = SECTIONS[section], constructor_of(section, content)
    found = option_fields(section, kind.settings) if kind.settings else {}
    if constructor is not None and constructor is not kind.settings:
        found = found | option_fields(section, constructor)
    return found


def entry_constructor(section: str, entry: str) -> Callable[..., Any] | None:
    """The class or function of an entry of an open section, None for an unknown one."""
    kind = SECTIONS[section]
    return kind.settings if kind.registry is None else kind.registry.get(entry)


def field_at(config: Mapping[str, Any], path: str) -> Field | None:
    """The field that a dotted path names, from the signature of its part, or None."""
    section, *rest = path.split(".")
    if section not in SECTIONS or not rest:
        return None
    if not SECTIONS[section].is_open:
        fields = section_fields(section, config.get(section))
    elif (constructor := entry_constructor(section, rest[0])) is not None:
        fields = option_fields(section, constructor)
    else:
        return None
    return fields.get(rest[-1]) if len(rest) == 1 + SECTIONS[section].is_open else None


def registered_names() -> set[tuple[str, str]]:
    """(section, name) of every part that a config can name."""
    return {
        (section, name)
        for section, kind in SECTIONS.items()
        for name in kind.registry or ()
    }


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with every default written out, so that a run records them all.

    Fields that the named alternative doesn't have are kept, for `build` to report.
    """
    left_out = {k: s.default for k, s in SECTIONS.items() if s.default is not None}
    return {
        name: _completed(name, content) if name in SECTIONS else content
        for name, content in {**left_out, "parts": (), "extra": {}, **config}.items()
    }


def _completed(section: str, content: Any) -> Any:
    if not isinstance(content, Mapping):
        return content
    if SECTIONS[section].is_open:
        return {
            entry: _with_defaults(option_fields(section, constructor), options)
            if (constructor := entry_constructor(section, entry)) is not None
            and isinstance(options, Mapping)
            else options
            for entry, options in content.items()
        }
    full = _with_defaults(section_fields(section, content), content)
    if SECTIONS[section].registry is not None and "name" in content:
        full = {"name": content["name"], **full}
    return full


def _with_defaults(
    fields: Mapping[str, Field], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The options, whole numbers of float fields as floats, and all defaults."""
    full = {n: f.default for n, f in fields.items() if f.default is not MISSING}
    for name, value in options.items():
        is_float = name in fields and fields[name].kind is float
        full[name] = float(value) if is_float and type(value) is int else value
    return full


def rename(content: Mapping[str, Any], name: str, section: str) -> dict[str, Any]:
    """The section with another alternative chosen, at the defaults of that one.

    Fields without a default are kept if both have them, and all of the settings that
    every alternative shares.
    """
    kind = SECTIONS[section]
    shared = option_fields(section, kind.settings) if kind.settings else {}
    fields = section_fields(section, {"name": name})
    kept = [k for k, f in fields.items() if f.default is MISSING or k in shared]
    return {"name": name} | {k: content[k] for k in kept if k in content}
