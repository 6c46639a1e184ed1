"""Tell what became of a run: score-sde status --workdir=DIR."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import launch


def main(argv: list[str] | None = None) -> int:
    """Print the state of a run and draw its curves into workdir/status.png."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--workdir", metavar="DIR", required=True, type=Path)
    workdir = parser.parse_args(argv).workdir

    from score_sde.evaluation.plots import save_metrics
    from score_sde.run.status import read_status
    from score_sde.types import UserError

    try:
        status = read_status(workdir)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(status.text())
    if status.rows:
        save_metrics(workdir / "status.png", status.rows)
        print(f"curves: {workdir / 'status.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(launch.print_report(main))
