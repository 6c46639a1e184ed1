"""Measure a model's samples: score-sde evaluate --workdir=DIR.

--config.features.name=NAME      what is compared: classifier, efficientnet_lite0, ...
--config.metrics.NAME={}         one metric more, such as density_coverage
--config.evaluation.reference=F  a file of statistics to compare with

Writes evaluation.json, and evaluation.png with samples beside their nearest training
examples and the Frechet distance by the number of samples. Of a run that is told small
pictures it also measures samples beside the held-out images, and draws them in
super_resolution.png: rows of what was told, drawn, and true.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import launch
from .sample import drawn


def main(command: launch.Command) -> None:
    """Draw samples if they are not there; measure them; print the table."""
    import json

    from score_sde.run import by_steps, super_resolution
    from score_sde.run.describe import opened
    from score_sde.run.measured import table
    from score_sde.run.provenance import is_done, made_by

    run = opened(command)
    if run is None:
        return
    causes, report = made_by("evaluation", run), command.workdir / "evaluation.json"
    if is_done(report, causes):
        found = json.loads(report.read_text())
    else:
        found = _measured(run, command.workdir, causes, report)
    print(
        f"{report}: samples beside {found['against']}, by features "
        f"{found['features']['name']!r}\n{table(found['metrics'])}"
    )
    if failed := found["samples"]["failed"]:
        print(f"{failed} samples FAILED and are left out")
    if "by_steps" in found:
        print(by_steps.table(found["by_steps"]))
    if "beside_truth" in found:
        print(super_resolution.table(found["beside_truth"]))
    for name, why in found.get("skipped", {}).items():
        print(f"{name}: not measured: {why}")


def _measured(
    run: Any, workdir: Path, causes: dict[str, Any], report: Path
) -> dict[str, Any]:
    """Draw and measure samples, and write the report and the pictures.

    Args:
        run: the opened run.
        workdir: its folder.
        causes: all that the report depends on.
        report: evaluation.json.
    Returns: the report.
    """
    import shutil
    import time

    from score_sde.run import by_steps, super_resolution
    from score_sde.run.evaluate import measure
    from score_sde.run.extraction import open_features
    from score_sde.run.measured import of_samples
    from score_sde.run.provenance import circumstances
    from score_sde.run.same_run import inputs_of
    from score_sde.runtime.folder import write_json
    from score_sde.runtime.jobs import parts_folder
    from score_sde.runtime.mesh import is_main_host

    samples = drawn(run, workdir)
    good, start = samples["samples"][samples["success"]], time.monotonic()
    extraction = open_features(run.experiment, run.config)
    # Parts that were left by another network, of a cache that was lost, are not these.
    keyed = {**causes, "features": extraction.identity}
    parts = parts_folder(workdir / "evaluation_parts", keyed)
    measured = measure(run.experiment, run.config, good, parts, extraction)
    found = measured.report()
    found["samples"] = of_samples(run.config, inputs_of(workdir), samples)
    if run.experiment.evaluation.step_counts:
        found["by_steps"] = by_steps.measure_by_steps(run, parts, extraction)
    if run.earlier is None and super_resolution.told_small(run.experiment):
        found["beside_truth"] = super_resolution.beside_truth(
            run.experiment, run.config, samples["samples"], extraction
        )
    if is_main_host():
        if "beside_truth" in found:
            _draw_beside_truth(run, samples["samples"], workdir)
        costs = by_steps.costs_of(found.get("by_steps", []))
        _draw(run, good, measured, costs, workdir / "evaluation.png")
        made = {**circumstances(), "seconds": round(time.monotonic() - start, 1)}
        write_json(report, {"made_by": causes, "made": made, **found})
        shutil.rmtree(parts)
    return found


def _draw_beside_truth(run: Any, samples: Any, workdir: Path) -> None:
    """Draw super_resolution.png."""
    from score_sde.evaluation.plots import save_samples
    from score_sde.run import super_resolution

    save_samples(
        workdir / "super_resolution.png",
        super_resolution.picture(run.experiment, samples),
        num_levels=run.dataset.num_levels,
        columns=super_resolution.SHOWN,
    )


def _draw(run: Any, samples: Any, measured: Any, costs: Any, path: Path) -> None:
    """Draw evaluation.png."""
    from score_sde.evaluation.plots import save_evaluation

    examples = None
    if measured.neighbours is not None:
        count, k = measured.neighbours.shape
        rows = run.experiment.shown.train[measured.neighbours.reshape(-1)]["values"]
        examples = rows.reshape(count, k, *rows.shape[1:])
        samples = samples[:count]
    floor = measured.metrics.get("frechet_distance", {}).get("floor", {})
    save_evaluation(
        path,
        samples=samples,
        neighbours=examples,
        num_levels=run.experiment.shown.num_levels,
        curve=measured.curve,
        costs=costs,
        floor=floor.get("value", {}).get("value"),
        caption=f"features: {measured.features['name']}; reference: {measured.text}",
    )


if __name__ == "__main__":
    launch.run(main, __doc__ or "")
