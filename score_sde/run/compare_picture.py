"""The picture of two runs side by side: losses, and numbers with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from score_sde.evaluation.plots import Ends, save_comparison
from score_sde.run.compare import CHANCE, Side, read_side, same_metrics
from score_sde.run.status import read_rows


def draw_comparison(first: Path, second: Path, path: Path) -> bool:
    """Draw the losses of two runs, and what both were measured to be.

    Args:
        first: the folder of a run.
        second: that of the other.
        path: of the picture.

    Returns:
        Whether there was anything to draw.

    Raises:
        UserError: if either folder has no run.
    """
    a, b = read_side(first), read_side(second)
    return save_comparison(
        path,
        names=(str(first), str(second)),
        losses=(_losses(a), _losses(b)),
        numbers={**_likelihoods(a, b), **_metrics(a, b)},
    )


def _losses(side: Side) -> np.ndarray:
    """Step and loss of the rows of metrics.jsonl, [rows, 2]."""
    rows = read_rows(side.folder / "metrics.jsonl")
    known = [(r["step"], r["loss"]) for r in rows if r.get("loss") is not None]
    return np.asarray(known, np.float64).reshape(-1, 2)


def _likelihoods(a: Side, b: Side) -> dict[str, tuple[Ends, Ends]]:
    """Bits/dim of the splits that both have, with intervals."""
    if not all("likelihood" in side.results for side in (a, b)):
        return {}
    one, two = (side.results["likelihood"]["splits"] for side in (a, b))

    def ends(row: Mapping[str, float]) -> Ends:
        value, half = row["bits_per_dim"], CHANCE * row["standard_error"]
        return Ends(value, value - half, value + half)

    return {
        f"bits/dim, {split}": (ends(one[split]), ends(two[split]))
        for split in one
        if split in two
    }


def _metrics(a: Side, b: Side) -> dict[str, tuple[Ends, Ends]]:
    """The metrics that can be compared, with intervals."""
    if not all("evaluation" in side.results for side in (a, b)):
        return {}

    def ends(row: Mapping[str, float]) -> Ends:
        return Ends(row["value"], row["low"], row["high"])

    found, _ = same_metrics(a, b)
    return {label: (ends(one), ends(two)) for label, (one, two) in found.items()}
