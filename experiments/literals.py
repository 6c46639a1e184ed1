"""The values that words of a command line spell, for a field of a known type."""

from __future__ import annotations

import ast
from typing import Any

BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def value_of(given: list[str | bool], kind: Any) -> Any:
    """The value of a field, from all that the command line gives it.

    Args:
        given: the words; a bool stands for a flag without a word. The last one counts,
            but single items, without brackets, together make a tuple or a list.
        kind: type of the field.

    Raises:
        ValueError: the word spells no value of this type.
    """
    last = given[-1]
    if isinstance(last, bool):
        if kind not in (bool, type(None), object):
            raise ValueError
        return last
    if kind in (tuple, list):
        words = [word for word in given if isinstance(word, str)]
        if any("," in word or word.strip()[:1] in ("(", "[") for word in words):
            words = [last]
        return kind(item for word in words for item in _items(word))
    return _scalar(last, kind)


def item_of(items: Any, index: int, text: str | bool, kind: Any) -> Any:
    """A tuple or a list with one item set to what a word spells.

    Raises:
        ValueError: items is neither, or the word is of another type.
        IndexError: it has fewer items.
    """
    if kind not in (tuple, list) or items is None or isinstance(text, bool):
        raise ValueError
    if index >= len(items):
        raise IndexError(f"it has {len(items)} items, the first of which is [0]")
    changed = list(items)
    changed[index] = _scalar(text, type(items[index]))
    return kind(changed)


def word_of(value: Any) -> str:
    """The word that spells a value."""
    return value if isinstance(value, str) else repr(value)


def _scalar(text: str, kind: Any) -> Any:
    """The value that a word spells."""
    from ml_collections import ConfigDict

    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in BOOLEANS:
            raise ValueError
        return BOOLEANS[text.lower()]
    if text == "None":
        return None
    if kind is float:
        return float(text)
    if kind is int:
        return _whole(text)
    value = _literal(text)
    if isinstance(kind, type) and issubclass(kind, (dict, ConfigDict)):
        if not isinstance(value, dict):
            raise ValueError
        return value
    return value


def _whole(text: str) -> int:
    """A whole number: 1000, 1_000, 0x3e8 or 1e3."""
    for base in (10, 0):
        try:
            return int(text, base)
        except ValueError:
            continue
    number = float(text)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _literal(text: str) -> Any:
    """A Python literal that JSON has too, or the text itself where it is none.

    Raises:
        ValueError: a dict whose keys are no names of fields.
    """
    if text in ("true", "false"):
        return BOOLEANS[text]
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
    return value if _is_plain(value) else text


def _is_plain(value: Any) -> bool:
    """Whether a value is made of numbers, texts, None, tuples, lists and dicts."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) and is_name(key) for key in value):
            raise ValueError
        return all(map(_is_plain, value.values()))
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str, type(None)))


def is_name(text: str) -> bool:
    """Whether a new field may have this name; a method of a ConfigDict has its own."""
    from ml_collections import ConfigDict

    return bool(text) and "." not in text and not hasattr(ConfigDict, text)


def _items(text: str) -> tuple[Any, ...]:
    """Items between commas, with or without brackets and quotes.

    Raises:
        ValueError: it is a dict.
    """
    value = _literal(text)
    if isinstance(value, dict):
        raise ValueError
    if isinstance(value, (tuple, list)):
        return tuple(value)
    if not isinstance(value, str) or value != text:
        return (value,)
    inside = text.strip()
    if inside[:1] + inside[-1:] in ("()", "[]"):
        inside = inside[1:-1]
    words = [word.strip() for word in inside.split(",")]
    return tuple(_number_or_text(word) for word in words if word)


def _number_or_text(word: str) -> Any:
    """A literal, an infinity, or the word itself."""
    return float(word) if word in ("inf", "-inf", "nan") else _literal(word)
