"""The console command: score-sde PROGRAM --FLAG=VALUE ..., in any folder.

A program is a module of this package, named with dashes or underscores. It runs as by
python -m, so both ways do the same.
"""

from __future__ import annotations

import ast
import difflib
import runpy
import sys
import textwrap
from pathlib import Path

from .config_files import packaged_names
from .launch import print_report

HEAD = """\
score-sde: continuous-time score models

usage: score-sde PROGRAM --workdir=DIR [--config=NAME] [FLAGS]
       score-sde PROGRAM --help

to begin:
  score-sde train --config=points --workdir=runs/points    a minute on two cores
  score-sde new my_experiment                              a config of your own

programs:
"""


def main(argv: list[str] | None = None) -> int:
    """Run a program; without one, list them all, and the configs.

    Args:
        argv: the words after score-sde; None for those of the process.

    Returns:
        The exit code, where no program ran that has one.
    """
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "-help", "help"):
        return print_report(_overview)
    if words[0] in ("--version", "-version"):
        from importlib.metadata import version

        print(f"score_sde {version('score_sde')}")
        return 0
    known = programs()
    name = words[0].replace("-", "_").lstrip("_")
    if name not in known:
        dashed = [other.replace("_", "-") for other in known]
        close = difflib.get_close_matches(words[0], dashed, n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        print(
            f"score-sde: no program {words[0]!r}; {guess}choose from {dashed}",
            file=sys.stderr,
        )
        return 2
    # Modules that a config names may lie where the user is, as for python -m.
    if "" not in sys.path:
        sys.path.append("")
    sys.argv = [f"score-sde {words[0]}", *words[1:]]
    runpy.run_module(f"{__package__}.{name}", run_name="__main__")
    return 0


def _overview() -> int:
    """Print what there is, and return the exit code."""
    print(f"{HEAD}{_table()}\n\nconfigs (--config=NAME, or a file of yours):")
    print(textwrap.indent(textwrap.fill(", ".join(packaged_names()), 86), "  "))
    return 0


def programs() -> dict[str, str]:
    """Module name -> first line of its docstring, of all programs; none is imported."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_text()
        if 'if __name__ == "__main__":' in text and path != Path(__file__):
            found[path.stem] = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    return found


def _table() -> str:
    """A line for each program."""
    rows = {name.replace("_", "-"): line for name, line in programs().items()}
    width = max(map(len, rows))
    return "\n".join(
        f"  {name:<{width}}  {line.partition(': score-sde')[0].rstrip('.')}"
        for name, line in rows.items()
    )
