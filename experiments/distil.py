"""Make a few-step model of a run: score-sde distil --from=RUN --config=NAME

The config says how: its objective, optimiser, training, sampler and grid. Data, network
and all else are those of the run, which becomes the companion `teacher`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import launch
from .train import FLAGS, main

OPTIONS = {"from": "the folder of the run that is distilled"}
OF_METHOD = (
    *("objective", "noise_levels", "weight", "optimizer", "train"),
    *("sampler", "grid", "guidance", "threshold"),
)
"""Sections that say how a student is made and used, and come from --config."""


def combined(config: Any, options: dict[str, Any]) -> Any:
    """The config of the run that is distilled, with the sections of the method."""
    from ml_collections import ConfigDict

    from score_sde.run.sections import complete
    from score_sde.runtime.folder import read_config

    run = Path(options["from"])
    whole = ConfigDict(complete(read_config(run)))
    for section in OF_METHOD:
        if section in config:
            whole[section] = config[section]
        elif section in ("guidance", "threshold"):
            whole[section] = {"name": "none"}
    for name in config.get("parts", ()):
        if name not in whole.parts:
            whole.parts = (*whole.parts, name)
    whole.companions = {**whole.companions, "teacher": {"run": str(run.resolve())}}
    return whole


if __name__ == "__main__":
    launch.run(main, __doc__ or "", options=OPTIONS, flags=FLAGS, combined=combined)
