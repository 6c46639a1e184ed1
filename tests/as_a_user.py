"""The commands of the documentation, run as a user would: from a clean folder."""

import re
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def run(words, folder):
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}:\n{done.stdout}{done.stderr}"
    return done.stdout


def blocks(page, language=""):
    """The fenced blocks of a page; of commands, if no language is asked for."""
    # All of them, in order: the end of one must not be taken for the start of another.
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    found = fence.findall((DOCS / page).read_text())
    return [text for name, text in found if name == language]


def commands(page):
    """The commands of a page, in their order."""
    for block in blocks(page):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if line.startswith("score-sde"):
                yield shlex.split(line, comments=True)
