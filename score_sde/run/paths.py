"""Dotted paths of a config's fields: data.path, conditions.label.samples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

OF_SAMPLES = ("conditions.*.samples", "conditions.*.level", "conditions.*.truncated")
"""Fields of conditions that say what samples are told, and change no other meaning."""


def without(config: Mapping[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    """The config but for some sections and fields, `*` standing for any entry."""
    return {
        path: value
        for path, value in flat(config)
        if not any(covers(field, path) for field in fields)
    }


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything in nested dicts that is no dict with items."""
    if isinstance(value, Mapping) and (value or not path):
        for name, item in value.items():
            yield from flat(item, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def covers(field: str, path: str) -> bool:
    """Whether a section or a field, `*` standing for any entry, has this path in it."""
    wanted, found = field.split("."), path.split(".")
    return len(wanted) <= len(found) and all(
        w in ("*", f) for w, f in zip(wanted, found, strict=False)
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A line for each path whose value is another in the second of two flat dicts."""
    old, new = (json.loads(json.dumps(side)) for side in (old, new))
    return [
        f"  {path}: {old.get(path)} -> {new.get(path)}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]
