"""Set fields of a config by the words of a command line.

    --config.a.b=v                   a value
    --config.a.b[0]=v                one item of a tuple or a list
    --config.a.b=v --config.a.b=w    a tuple or a list, item by item

Fields that a config file states are set while its references live, so that whatever it
derives from them is computed anew. Then defaults are written out, and all others set.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Collection, Iterator
from typing import Any

from .literals import is_name, item_of, value_of
from .words import Overrides, flag_of

OPEN = ("conditions", "companions", "metrics", "extra")
"""Sections in which the command line may make new entries."""


class OverrideError(ValueError):
    """All that is wrong with the words that set fields, a line each."""

    def __init__(self, problems: list[str]):
        super().__init__("; ".join(problems))
        self.problems = problems


def apply(config: Any, overrides: Overrides) -> dict[str, Any]:
    """Set fields of a config, and write out all its defaults.

    Args:
        config: an unlocked ConfigDict, which is changed.
        overrides: of its fields, or of those that only the defaults have.

    Returns:
        The complete config, of literals.

    Raises:
        OverrideError: names the words on the command line, and the choices.
        ValueError: for words that undo others, and placeholders that are not set.
    """
    from ml_collections import ConfigDict

    from score_sde.run.sections import complete

    _check_order(overrides)
    _load_parts(config, overrides)
    _choose(config, overrides)
    now: Overrides = {}
    later: Overrides = {}
    for field, given in overrides.items():
        _make_room(config, field)
        (now if _has(config, field) else later)[field] = given
    problems = _set_all(config, now)
    if problems and any(_placeholders(config)):
        raise OverrideError(problems)  # without their values there are no defaults
    full = ConfigDict(complete(resolve(config, overrides)))
    problems += _set_all(full, later)
    if problems:
        raise OverrideError(problems)
    if later:
        full = ConfigDict(complete(full.to_dict()))
    return full.to_dict()


def _load_parts(config: Any, overrides: Overrides) -> None:
    """Import the user's modules, so that their parts have options to be set.

    What is wrong with them is said when the config is built.
    """
    from score_sde.run import parts

    if "parts" in overrides:
        config.parts = ()
        _set(config, "parts", overrides["parts"])
    parts.load(config.get("parts", ()))


def resolve(config: Any, given: Collection[str] = ()) -> dict[str, Any]:
    """The config with every reference replaced by its value.

    Args:
        config: a ConfigDict.
        given: fields that were set by hand, and may be None.

    Raises:
        ValueError: placeholders that were never set.
    """
    unset = [
        f"{field} is a placeholder that is not set; give --config.{field}={kind}"
        for field, kind in _placeholders(config)
        if field not in given
    ]
    if unset:
        raise ValueError("; ".join(unset))
    return config.to_dict()


def _check_order(overrides: Overrides) -> None:
    """Refuse a field that is set, and then undone by setting all that it is in."""
    fields = list(overrides)
    for i, outer in enumerate(fields):
        for inner in fields[:i]:
            if inner.startswith(f"{outer}."):
                raise ValueError(
                    f"{flag_of(outer, overrides[outer][-1])} comes after "
                    f"--config.{inner}, and would undo it."
                )


def _choose(config: Any, overrides: Overrides) -> None:
    """Start the sections whose `name` is set from the defaults of that alternative."""
    from score_sde.run.sections import NAMED, rename

    for field, given in overrides.items():
        section, _, last = field.partition(".")
        name = given[-1]
        if last != "name" or section not in NAMED or not isinstance(name, str):
            continue
        old: Any = _peek(config, section) if section in config else {}
        if not hasattr(old, "keys"):
            continue
        known = {key: _peek(old, key) for key in old}
        if known.get("name") == name:
            continue
        kept = rename(known, name, section)
        if section not in config:
            config[section] = kept
            continue
        for key in known.keys() - kept.keys():
            del old[key]
        with old.ignore_type():
            old["name"] = name


def _peek(holder: Any, key: str) -> Any:
    """The value of a field, None for a placeholder that needs one."""
    from ml_collections.config_dict import RequiredValueError

    try:
        return holder[key]
    except RequiredValueError:
        return None


def _fields(holder: Any) -> dict[str, Any]:
    """The fields of a ConfigDict, references as they are; {} for anything else."""
    from ml_collections import ConfigDict

    if not isinstance(holder, ConfigDict):
        return {}
    return dict(holder.items(preserve_field_references=True))


def _placeholders(config: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(field, type) of every reference without a value."""
    from ml_collections import FieldReference

    for name, value in _fields(config).items():
        field = f"{path}{name}"
        if isinstance(value, FieldReference):
            # Those with operations are derived from another, which is found itself.
            if not value._ops and _peek(config, name) is None:
                yield field, getattr(value.get_type(), "__name__", "value").upper()
        else:
            yield from _placeholders(value, f"{field}.")


def _has(config: Any, field: str) -> bool:
    """Whether a config itself states a field."""
    *parents, last = field.split(".")
    for part in parents:
        config = _peek(config, part) if part in _fields(config) else None
    return _item(last)[0] in _fields(config)


def _make_room(config: Any, field: str) -> None:
    """Make the sections of a field that belongs to a section open for new entries."""
    section, *rest = field.split(".")
    if section not in OPEN:
        return
    for part in (section, *rest[:-1]):
        if part not in _fields(config):
            if not hasattr(config, "keys") or not is_name(part):
                return  # which `_set` finds again
            config[part] = {}
        config = _peek(config, part)


def _item(part: str) -> tuple[str, int | None]:
    """('a', 3) of 'a[3]', ('a', None) of 'a'."""
    match = re.fullmatch(r"(.*)\[(\d+)\]", part)
    return (match[1], int(match[2])) if match else (part, None)


def _set_all(config: Any, overrides: Overrides) -> list[str]:
    """Set fields; what is wrong with some of them is returned."""
    problems = []
    for field, given in overrides.items():
        try:
            _set(config, field, given)
        except ValueError as error:
            problems.append(str(error))
    return problems


def _set(config: Any, field: str, given: list[str | bool]) -> None:
    """Set one field; a ConfigDict refuses values of another type."""
    from ml_collections import ConfigDict

    from score_sde.run.sections import field_at
    from score_sde.types import choices_text

    word, parts = flag_of(field, given[-1]), field.split(".")
    signature = field_at(_plain(config), field)
    holder: Any = None
    value: Any = config
    for depth, part in enumerate(parts):
        name, index = _item(part) if depth == len(parts) - 1 else (part, None)
        known = _fields(value)
        if name not in known:
            is_new = depth == len(parts) - 1 and index is None and is_name(name)
            is_new &= isinstance(value, ConfigDict)
            if not is_new or not (signature or parts[0] in OPEN):
                raise ValueError(
                    f"{word}: there is no {part!r}{choices_text(part, known)}"
                )
        holder, value = value, known.get(name)
    kind, text = _kind_of(value, signature), given[-1]
    try:
        if index is not None:
            holder[name] = item_of(_peek(holder, name), index, text, kind)
        elif text == "None" and _may_be_none(signature):
            with holder.ignore_type():
                holder[name] = None
        elif kind is int and signature and signature.kind is float:
            with holder.ignore_type():  # of which the file says 80, say
                holder[name] = value_of(given, float)
        else:
            holder[name] = value_of(given, kind)
    except IndexError as error:
        raise ValueError(f"{word}: {error}.") from None
    except (TypeError, ValueError):
        raise ValueError(f"{word}: {_complaint(kind, text)}.") from None


def _plain(config: Any) -> dict[str, Any]:
    """The names that a config's sections have chosen, for `field_at`."""
    return {
        section: {"name": _peek(content, "name")} if "name" in _fields(content) else {}
        for section, content in _fields(config).items()
    }


def _kind_of(value: Any, signature: Any) -> Any:
    """The type of a field: of its value, or if it has none, of its signature."""
    from ml_collections import FieldReference

    from score_sde.fields import kinds_of

    if isinstance(value, FieldReference):
        return value.get_type()
    if value is not None or signature is None:
        return type(value)
    kinds = [k for k in kinds_of(signature.kind) if k is not type(None)]
    kind = typing.get_origin(kinds[0]) or kinds[0] if kinds else None
    return kind if kind in (bool, int, float, str, tuple) else type(None)


def _may_be_none(signature: Any) -> bool:
    from score_sde.fields import kinds_of

    return signature is not None and type(None) in kinds_of(signature.kind)


def _complaint(kind: Any, text: str | bool) -> str:
    from ml_collections import ConfigDict

    if isinstance(text, bool):
        return "it is no boolean, and needs a value"
    if isinstance(kind, type) and issubclass(kind, (dict, ConfigDict)):
        return "it is a section of fields"
    return f"it must be {getattr(kind, '__name__', kind)}"
