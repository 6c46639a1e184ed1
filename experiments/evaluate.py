"""Measure a model's samples: python -m experiments.evaluate --workdir=DIR.

--config.features.name=NAME    what is compared: values, efficientnet_lite0, ...
--config.metrics.NAME={}       one metric more, such as density_coverage
"""

from __future__ import annotations

from . import launch
from .sample import drawn


def main(command: launch.Command) -> None:
    """Draw samples if they are not there; write evaluation.json; print the table."""
    import json

    from score_sde.run.describe import opened
    from score_sde.run.evaluate import measure, table
    from score_sde.run.provenance import circumstances, is_done, made_by
    from score_sde.runtime.folder import write_json
    from score_sde.runtime.mesh import is_main_host

    run = opened(command)
    if run is None:
        return
    causes, report = made_by("evaluation", run), command.workdir / "evaluation.json"
    if is_done(report, causes):
        found = json.loads(report.read_text())["metrics"]
    else:
        samples = drawn(run, command.workdir)
        found = measure(run.experiment, samples["samples"][samples["success"]])
        if is_main_host():
            write_json(
                report, {"made_by": causes, "made": circumstances(), "metrics": found}
            )
    config = run.config
    print(
        f"{report}: samples beside the {config['evaluation']['against']} data, by "
        f"their {config['features']['name']}\n{table(found)}"
    )


if __name__ == "__main__":
    launch.run(main, __doc__ or "")
