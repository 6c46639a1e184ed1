"""The quality of samples against what they cost: one run at several step counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.evaluation.plots import Costs
from score_sde.run.build import build
from score_sde.run.cascade import draw_stages
from score_sde.run.evaluate import make_measure
from score_sde.run.extraction import Extraction
from score_sde.run.open import Run
from score_sde.runtime.mesh import local_mesh
from score_sde.types import UserError

DRAWN = "frechet_distance"
"""The metric of the picture, if the config has it."""


def with_steps(config: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The config with a grid of so many steps; of stated levels, evenly chosen ones.

    Raises: UserError for a count that does not divide the number of stated levels.
    """
    grid = {**config["grid"]}
    if "sigmas" not in grid:
        grid["num_steps"] = count
        return {**config, "grid": grid}
    stated = grid["sigmas"]
    if len(stated) % count:
        raise UserError(
            f"evaluation.step_counts has {count}; it must divide the {len(stated)} "
            "levels of grid.sigmas."
        )
    grid["sigmas"] = stated[:: len(stated) // count]
    return {**config, "grid": grid}


def measure_by_steps(
    run: Run, folder: Path, extraction: Extraction | None = None
) -> list[dict[str, Any]]:
    """Draw and measure as many samples again at each of `evaluation.step_counts`.

    Args:
        run: an opened run; samples of all counts have the same noise.
        folder: for the files of parts, so that a job that was interrupted goes on.
        extraction: the features of the config, where they are open; None to open them.

    Returns:
        A row of each count: `num_steps`, `num_evals`, `gflop` of a sample, `failed`,
        and `metrics`, see `make_measure`.

    Raises:
        UserError: for a grid that can't have so many steps.
    """
    measure = make_measure(run.experiment, run.config, folder, extraction)
    rows = []
    for count in run.experiment.evaluation.step_counts:
        config = with_steps(run.config, count)
        other = dataclasses.replace(run, config=config, experiment=build(config))
        place = folder / f"steps_{count}"
        place.mkdir(parents=True, exist_ok=True)
        arrays, costs = draw_stages(other, place, local_mesh())
        rows.append(
            {
                "num_steps": count,
                "num_evals": costs[-1].num_evals,
                "gflop": sum(cost.gflop for cost in costs),
                "failed": int((~arrays["success"]).sum()),
                "metrics": measure(arrays["levels"][arrays["success"]]),
            }
        )
    return rows


def table(rows: list[Mapping[str, Any]]) -> str:
    """Evaluations and metrics with intervals, a column for each number of steps."""
    columns = [["steps", "evaluations", "failed"]]
    for row in rows:
        counts = (row["num_steps"], row["num_evals"], row["failed"])
        columns.append([f"{count:.0f}" for count in counts])
    for name in rows[0]["metrics"]:
        if f"{name}.low" in rows[0]["metrics"]:
            columns[0].append(name)
            for column, row in zip(columns[1:], rows, strict=True):
                ends = (row["metrics"][name + end] for end in ("", ".low", ".high"))
                column.append("{:.4g} [{:.4g}, {:.4g}]".format(*ends))
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(map(str.ljust, line, widths)).rstrip()
        for line in zip(*columns, strict=True)
    )


def costs_of(rows: list[Mapping[str, Any]]) -> Costs | None:
    """Costs and distances for the picture; None if no distance was measured."""
    rows = sorted(rows, key=lambda row: row["num_evals"])
    if not rows or DRAWN not in rows[0]["metrics"]:
        return None
    ends = (f"{DRAWN}.low", DRAWN, f"{DRAWN}.high")
    low, value, high = (np.asarray([r["metrics"][n] for r in rows]) for n in ends)
    return Costs(np.asarray([r["num_evals"] for r in rows]), value, low, high)
