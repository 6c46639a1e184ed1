"""The words of a command line: which of them set a field of the config, and to what.

Three forms are known:

--config.a.b=v    --config.a.b v    -config.a.b=v    a value
--config.a.b      --noconfig.a.b                     true or false
--flagfile=FILE                                      more words, one a line
"""

from __future__ import annotations

import re
from pathlib import Path

Overrides = dict[str, list[str | bool]]
"""Field -> what the command line gives it, in order; a bool where it gives no value."""


def expand(words: list[str], *, inside: tuple[Path, ...] = ()) -> list[str]:
    """Replace --flagfile=FILE by the words in that file, and single dashes by double.

    Raises:
        ValueError: a file is missing, or contains itself.
    """
    expanded: list[str] = []
    rest = iter(words)
    for word in rest:
        if re.match(r"-[A-Za-z]\w", word) and _is_flag(word):
            word = f"-{word}"
        name, equals, text = word.partition("=")
        if name != "--flagfile":
            expanded.append(word)
            continue
        file = Path(text if equals else next(rest, "")).expanduser()
        if file in inside:
            raise ValueError(f"--flagfile: {str(file)!r} contains itself.")
        if not file.is_file():
            raise ValueError(f"--flagfile: no file {str(file)!r}.")
        lines = [line.strip() for line in file.read_text().splitlines()]
        lines = [line for line in lines if line and not line.startswith(("#", "//"))]
        expanded += expand(lines, inside=(*inside, file))
    return expanded


def read_overrides(
    words: list[str], prefix: str = "config"
) -> tuple[Overrides, list[str]]:
    """Take the fields with a prefix out of a command line.

    Args:
        words: the command line, as `expand` gives it.
        prefix: the word before the field, as in --config.a.b.

    Returns:
        What each field is given, in the order of their last words; all other words.

    Raises:
        ValueError: --no with a value.
    """
    overrides: Overrides = {}
    others = []
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        match = re.match(rf"--(no)?{prefix}\.([^=]*)(=?)(.*)", word, re.DOTALL)
        if match is None:
            others.append(word)
            continue
        no, field, equals, text = match.groups()
        given: str | bool = text if equals else not no
        if no and equals:
            raise ValueError(f"{word}: --no takes no value.")
        if not no and not equals and rest and not _is_flag(rest[-1]):
            given = rest.pop()
        overrides[field] = [*overrides.pop(field, []), given]
    return overrides, others


def words_of(overrides: Overrides, prefix: str = "config") -> list[str]:
    """The command line that gives these overrides."""
    return [
        flag_of(field, value, prefix)
        for field, given in overrides.items()
        for value in given
    ]


def flag_of(field: str, value: str | bool, prefix: str = "config") -> str:
    """The word of a command line that gives a field a value."""
    if isinstance(value, bool):
        return f"--{'' if value else 'no'}{prefix}.{field}"
    return f"--{prefix}.{field}={value}"


def _is_flag(word: str) -> bool:
    """Whether a word is a flag: a dash and a letter, but no number such as -inf."""
    try:
        float(word)
    except ValueError:
        return re.match(r"--?[A-Za-z]", word) is not None
    return False
