"""Making the parts of a config, section by section.

Parts are made in the order of `sections.SECTIONS`. Each is given the arguments that
earlier sections determine, so that a config states every fact once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from score_sde.fields import MISSING, Field, fields_of, value_problem
from score_sde.run import parts
from score_sde.run.sections import (
    GIVEN_LATER,
    NOT_OPTIONS,
    SECTIONS,
    STATED_IN,
    complete,
    constructor_of,
    entry_constructor,
    option_fields,
    section_fields,
)
from score_sde.run.settings import measured_sigma_data
from score_sde.runtime.folder import read_config
from score_sde.types import UserError, choices_text

FAILED: Any = object()
"""The mark of a part that could not be made: what is wrong with it has been said."""
RNGS = "rngs"
"""The argument of an NNX module's constructor that its parameters are drawn by."""
ENDS_OF_GRID = ("sigma_min", "sigma_max")
"""Options of a grid that are those of the SDE unless they are stated."""


class Maker:
    """The parts of one config, as they are made, and the problems that were found."""

    def __init__(self, config: Mapping[str, Any]):
        left_out = {k: s.default for k, s in SECTIONS.items() if s.default is not None}
        self.config = {**left_out, **config}
        self.problems = parts.load(config.get("parts", ()))
        self.given: dict[str, Any] = {}
        """Arguments of parts that other sections determine."""
        self.network_roles: tuple[str, ...] = ()
        """Roles of the runs whose networks are arguments of this one's."""

    def all(self) -> dict[str, Any]:
        """Make the part, or parts, of every section; problems are collected."""
        made = {}
        for name in SECTIONS:
            made[name] = self._section(name)
            if name == "chain":
                self._give_chain(made[name])
            elif name == "data":
                self._give_data(*made[name])
            elif name == "conditions":
                self._give_conditions(made[name])
            elif name in ("sde", "noise_levels", "weight") and made[name] is not None:
                self.given[name] = made[name]
        return made

    # What sections give to later ones.

    def _give_chain(self, chain: Any) -> None:
        for name, where in STATED_IN.items():
            if where == "chain":
                self.given[name] = getattr(chain, name, FAILED)

    def _give_data(self, data: Any, dataset: Any) -> None:
        self.given["dataset"] = dataset
        self.given["shape"] = getattr(dataset, "shape", FAILED)
        self.given["num_labels"] = getattr(dataset, "num_classes", FAILED)
        self.given["sigma_data"] = FAILED
        if data is FAILED or dataset is FAILED:
            return
        self.problems += [f"data.{text}" for text in data.problems(dataset)]
        try:
            self.given["sigma_data"] = (
                data.sigma_data or dataset.sigma_data or measured_sigma_data(dataset)
            )
        except UserError as error:
            self.problems.append(
                f"data.sigma_data is None, and it can't be measured: {error}"
            )

    def _give_conditions(self, told: Any) -> None:
        self.given |= {"num_classes": 0, "vector_dims": 0, "augment_dims": 0}
        for condition in told.values():
            if condition is FAILED:
                self.given |= dict.fromkeys(
                    ("num_classes", "num_words", "vector_dims", "augment_dims"), FAILED
                )
                return
            self.given |= condition.facts
        if any(c.augment for c in told.values()):
            for name, condition in told.items():
                if condition.describes_values:
                    self.problems.append(
                        f"conditions.{name}: what it tells of an image would not be "
                        "true of one that conditions.augment transforms"
                    )

    # Sections.

    def _section(self, name: str) -> Any:
        """Make what a section describes: an object, or a dict of them if it is open."""
        kind, content = SECTIONS[name], self.config.get(name)
        if content is None and not kind.is_required:
            return None
        failed: Any = (
            (FAILED, FAILED) if name == "data" else {} if kind.is_open else FAILED
        )
        if not isinstance(content, Mapping):
            word = "missing" if content is None else f"{content!r}, no section"
            self.problems.append(f"{name}: this section is {word}")
            return failed
        if kind.is_open:
            return {entry: self._entry(name, entry) for entry in content}
        constructor = constructor_of(name, content)
        if constructor is None:
            chosen = content.get("name")
            hint = choices_text(chosen, kind.registry)
            self.problems.append(f"{name}.name is {chosen!r}{hint}")
            return failed
        options = {k: v for k, v in content.items() if k != "name" or not kind.registry}
        if not self._checked(name, section_fields(name, content), options):
            return failed
        if kind.settings is None or constructor is kind.settings:
            return self._made(name, name, constructor, options)
        shared = {
            k: options.pop(k) for k in [*options] if k in fields_of(kind.settings)
        }
        common = self._made(name, name, kind.settings, shared)
        return common, self._made(name, name, constructor, options)

    def _entry(self, name: str, entry: str) -> Any:
        """Make one entry of an open section."""
        options, where = self.config[name][entry], f"{name}.{entry}"
        constructor = entry_constructor(name, entry)
        if constructor is None:
            registry = SECTIONS[name].registry or {}
            self.problems.append(f"{where}: unknown{choices_text(entry, registry)}")
            return FAILED
        if not isinstance(options, Mapping):
            self.problems.append(f"{where} is {options!r}; it must be a section")
            return FAILED
        if not self._checked(where, option_fields(name, constructor), options):
            return FAILED
        return self._made(name, where, constructor, options)

    def _checked(
        self, where: str, fields: Mapping[str, Field], options: Mapping[str, Any]
    ) -> bool:
        """Check the options of one part; report what is wrong with them."""
        before = len(self.problems)
        for name in [n for n in options if n not in fields]:
            if name in STATED_IN and STATED_IN[name] != where:
                hint = f"; leave it out: {STATED_IN[name]} determines it"
            else:
                hint = f": no such field{choices_text(name, fields)}"
            self.problems.append(f"{where}.{name}{hint}")
        for name, field in fields.items():
            if name not in options:
                if field.default is MISSING and name not in ENDS_OF_GRID:
                    self.problems.append(f"{where}.{name} is missing")
            elif text := value_problem(field, options[name]):
                self.problems.append(f"{where}.{name} is {options[name]!r}{text}")
        return len(self.problems) == before

    def _made(
        self,
        section: str,
        where: str,
        constructor: Callable[..., Any],
        options: Mapping[str, Any],
    ) -> Any:
        """Make a part of checked options and of what other sections give it."""
        called_with = SECTIONS[section].called_with
        is_bound = called_with is not None and not inspect.isclass(constructor)
        fields = fields_of(constructor, skip=called_with or 0 if is_bound else 0)
        own = option_fields(section, constructor)
        given = {k: self.given[k] for k in fields if k in self.given and k not in own}
        if section == "features" and "dataset" in given:
            given["dataset"] = getattr(given["dataset"], "shown", FAILED)
        if any(value is FAILED for value in given.values()):
            return FAILED
        for name, field in fields.items():
            is_made = name in own or name in given or name in NOT_OPTIONS
            is_made |= name == RNGS or name in GIVEN_LATER.get(section, ())
            if is_made or field.default is not MISSING or section == "guidance":
                continue  # guidance is given companions, when they are loaded
            if section == "network" and name not in STATED_IN:
                given[name] = self._network_of_companion(where, name)
            else:
                source = STATED_IN.get(name, name)
                self.problems.append(
                    f"{where}: it needs {source}, which is not in the config"
                )
            if given.get(name, FAILED) is FAILED:
                return FAILED
        if is_bound or RNGS in fields:  # an NNX module is made when it is initialised
            return partial(constructor, **{**options, **given})
        try:
            return constructor(**{**options, **given})
        except (ValueError, TypeError) as error:
            self.problems.append(f"{where}: {str(error).rstrip('.')}")
            return FAILED

    def _network_of_companion(self, where: str, role: str) -> Any:
        """The module of another run's network, which is an argument of this one's."""
        companion = self.config["companions"].get(role)
        if not isinstance(companion, Mapping) or "run" not in companion:
            self.problems.append(
                f"{where}: it needs the network of another run: "
                f"--config.companions.{role}.run=FOLDER"
            )
            return FAILED
        self.network_roles = (*self.network_roles, role)
        try:
            other = Maker(complete(read_config(Path(companion["run"]))))
        except UserError as error:
            self.problems.append(f"companions.{role}: {error}")
            return FAILED
        module = other.all()["network"]
        self.problems += [f"companions.{role}: {text}" for text in other.problems]
        return module
