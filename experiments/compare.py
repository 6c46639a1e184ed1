"""Compare two runs: score-sde compare RUN RUN.

Prints what differs in cause (configs, data, parameters, code) and in number (bits/dim,
paired by example where both scored the same ones; metrics with their intervals), and
draws losses and numbers of both in compare.png in the first run's folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import launch


def main(argv: list[str] | None = None) -> int:
    """Print the comparison of two runs."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", metavar="RUN", nargs=2, type=Path)
    parser.add_argument("--picture", metavar="FILE", type=Path)
    given = parser.parse_args(argv)
    first, second = given.runs
    picture = given.picture or first / "compare.png"

    from score_sde.run.compare import comparison
    from score_sde.run.compare_picture import draw_comparison
    from score_sde.types import UserError

    try:
        print(comparison(first, second))
        if draw_comparison(first, second, picture):
            print(f"{picture}: losses and numbers of both")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(launch.print_report(main))
