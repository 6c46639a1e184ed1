"""Whether a run may go on with a config: a change of what it learns is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from score_sde.run.experiment import Experiment
from score_sde.run.paths import OF_SAMPLES, differences, flat, without
from score_sde.run.sections import complete
from score_sde.run.status import read_status
from score_sde.runtime.folder import environment, read_config, read_json, write_json
from score_sde.types import UserError

FREE = (
    *("devices", "sampler", "grid", "guidance", "threshold", "sampling", "likelihood"),
    *(
        "editing",
        "restoration",
        "features",
        "metrics",
        "evaluation",
        "extra",
    ),
    *OF_SAMPLES,
    *("train.log_every", "train.sample_every", "train.checkpoint_every"),
    *("train.keep_checkpoints", "train.keep_every", "train.keep_best"),
    *("train.on_failed_save", "train.max_skipped", "train.profile_steps"),
    *("train.snapshot_every", "data.num_workers"),
    # The data and the companions are known by what they hold, not by where they lie.
    *("data.folder", "data.path", "data.test_path", "companions"),
)
"""Sections and fields that don't decide what a run learns."""
DESCRIPTION = "inputs.json"


def check_same(
    workdir: Path,
    config: Mapping[str, Any],
    experiment: Experiment,
    inputs: Mapping[str, Any],
    *,
    allow_change: bool,
) -> str | None:
    """Compare a config with that of the run in workdir, if one has begun there.

    Args:
        workdir: the folder of the run.
        config: the resolved config.
        experiment: that it describes.
        inputs: the identity of the data, and of the companions of training.
        allow_change: whether the run may go on all the same.

    Returns:
        A table of what is another now, None if nothing is.

    Raises:
        UserError: with that table, if changes are not allowed.
    """
    if not (workdir / "config.json").exists() or not read_status(workdir).has_begun:
        return None
    old = without(complete(read_config(workdir)), FREE)
    new = without(config, FREE)
    parts = (experiment.optimizer, experiment.objective)
    if not any(part.depends_on_num_steps for part in parts):
        old.pop("train.num_steps", None)
        new.pop("train.num_steps", None)
    if known := inputs_of(workdir):
        old |= dict(flat({"inputs": known}))
        new |= dict(flat({"inputs": inputs}))
    rows = differences(old, new)
    if not rows:
        return None
    table = "\n".join(rows)
    if not allow_change:
        raise UserError(
            f"the run in {workdir} was trained with another config, or on other data; "
            "use another --workdir, the old values, or --allow_config_change:\n" + table
        )
    return table


def inputs_of(workdir: Path) -> dict[str, Any]:
    """The identity of the data and companions that a run was trained with.

    Where its parameters are an average made by `reconstruct-ema`, `average` says which.
    It is empty where nobody knows, as of weights that another program trained.
    """
    file = workdir / DESCRIPTION
    return read_json(file) if file.exists() else {}


def describe(
    workdir: Path, config: Mapping[str, Any], inputs: Mapping[str, Any]
) -> None:
    """Write the files that say what a run is: config, inputs, environment.

    Args:
        workdir: the folder of the run.
        config: the resolved config.
        inputs: as those of `inputs_of`.
    """
    write_json(workdir / DESCRIPTION, inputs)
    write_json(workdir / "environment.json", environment())
    write_json(workdir / "config.json", config)
