"""References of samples: a split of the data, or a file of its statistics."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.data.identity import identity
from score_sde.evaluation.moments import Moments, merge_moments, moments_of
from score_sde.evaluation.statistics import (
    UNKNOWN,
    Statistics,
    difference,
    digest_of_file,
    read_statistics,
    write_statistics,
)
from score_sde.run.experiment import Experiment
from score_sde.run.extraction import (
    BATCH,
    Extraction,
    count_of,
    in_parts,
    open_features,
    values_of,
)
from score_sde.run.provenance import PACKAGES, circumstances, code_digest
from score_sde.runtime.folder import Arrays
from score_sde.runtime.jobs import compute_in_parts, parts_folder
from score_sde.runtime.mesh import is_main_host, wait_for_hosts
from score_sde.runtime.progress import Progress
from score_sde.types import UserError

BATCHES = 16
"""How many batches go into one part of the statistics of a data set."""


class Reference(NamedTuple):
    """The reference that samples are held against."""

    arrays: Arrays
    """Features and logits of its examples; empty if it has moments alone."""
    statistics: Statistics | None
    """Moments from a file; None where the examples themselves are there."""
    record: dict[str, Any]
    """What it is, for a report: two numbers are compared where theirs are the same."""

    def __str__(self) -> str:
        if self.statistics is not None:
            return str(self.statistics)
        return (
            f"{self.record['number']:,} examples of {self.record['dataset']}, "
            f"{self.record['split']} split"
        )


def open_reference(
    experiment: Experiment,
    config: Mapping[str, Any],
    extraction: Extraction,
    *,
    dims: int,
    logits: bool,
    folder: Path | None,
) -> Reference:
    """Open what a config measures samples against.

    Args:
        experiment: of the config.
        config: the complete config.
        extraction: its features.
        dims: how many there are.
        logits: whether a metric reads logits.
        folder: for the files of parts; None to keep none.

    Raises:
        UserError: for a file that is none of statistics, or of other features.
    """
    settings = experiment.evaluation
    if not settings.reference:
        split = settings.against
        count = count_of(experiment, split)
        values = values_of(experiment.shown.split(split))
        path = folder and folder / split
        arrays = in_parts(path, count, values, extraction, logits=logits)
        record = _record_of(experiment, split, count)
        return Reference(arrays, None, record)
    file = Path(settings.reference).expanduser()
    kind = str(extraction.identity.get("output", ""))
    found = read_statistics(file, dims=dims, kind=kind)
    if found.origin is not None:
        text = difference(
            found.origin["features"], extraction.identity, names=("it", "this run")
        )
        if text is not None:
            raise UserError(
                f"evaluation.reference is {str(file)!r}: {text} Make it anew by "
                "`score-sde reference-stats`, or set these features."
            )
    record = {"file": str(file), "sha256": digest_of_file(file)}
    record |= {"number": found.number, "origin": found.origin or UNKNOWN}
    arrays = {}
    if found.images is not None:
        images = found.images
        path = folder and folder / "reference"
        of_images = open_features(experiment, config, num_levels=256)
        arrays = in_parts(
            path, len(images), lambda i: images[i], of_images, logits=logits
        )
    return Reference(arrays, found, record)


def _record_of(experiment: Experiment, split: str, count: int) -> dict[str, Any]:
    data = identity(experiment.shown)
    return {
        "dataset": experiment.shown.name,
        "split": split,
        "number": count,
        "data": data["digest"],
    }


def write_reference(
    experiment: Experiment, config: Mapping[str, Any], workdir: Path
) -> tuple[Path, int]:
    """Write the statistics of the split that a config measures against.

    Args:
        experiment: of the config.
        config: the complete config.
        workdir: the folder of reference.npz, and of parts until it is done.

    Returns:
        (the file, number of features). One that was made by the same is left as it is.
    """
    extraction, path = open_features(experiment, config), workdir / "reference.npz"
    split = experiment.evaluation.against
    count = count_of(experiment, split)
    origin = {
        "features": extraction.identity,
        **_record_of(experiment, split, count),
        "format": identity(experiment.shown)["format"],
        "code": code_digest(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    dims = _dims_if_done(path, origin)
    if dims is not None:
        return path, dims
    parts = parts_folder(workdir / "reference_parts", origin)
    moments = moments_of_split(experiment, split, count, extraction, parts)
    if is_main_host():
        write_statistics(path, moments, {**origin, "made": circumstances()})
        shutil.rmtree(parts)
    wait_for_hosts(str(path))
    return path, len(moments.mean)


def _dims_if_done(path: Path, origin: Mapping[str, Any]) -> int | None:
    """The number of features in a file that was made of exactly this; None if none."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            made, dims = json.loads(str(file["origin"])), len(file["mu"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    known = json.loads(json.dumps(origin))
    return dims if {k: v for k, v in made.items() if k != "made"} == known else None


def moments_of_split(
    experiment: Experiment,
    split: str,
    count: int,
    extraction: Extraction,
    folder: Path,
) -> Moments:
    """The moments of the features of a split, part by part over hosts and devices.

    Parts are the same, and merged in the same order, however many hosts there are.

    Args:
        experiment: with the data.
        split: of the data.
        count: how many of its examples, from the first.
        extraction: of the features.
        folder: for the files of parts.
    """
    examples, size = experiment.shown.split(split), BATCH * BATCHES
    # Its steps are batches: a part of the statistics may take minutes.
    bar = Progress(f"features of {split}", -(-count // BATCH))

    def of_batch(start: int) -> Moments:
        rows = np.arange(start, min(start + BATCH, count))
        found = moments_of(extraction.features(examples[rows]["values"]))
        if is_main_host():
            bar.part_done(start // BATCH + 1)
        return found

    def compute(first: int) -> Arrays:
        last = min(first + size, count)
        found = merge_moments(of_batch(start) for start in range(first, last, BATCH))
        number = np.asarray([found.number])
        return {"n": number, "mean": found.mean[None], "m2": found.scatter[None]}

    made = compute_in_parts(
        folder / split, count=count, size=size, compute=compute, what=""
    )
    parts = zip(made["n"].tolist(), made["mean"], made["m2"], strict=True)
    return merge_moments(Moments(*part) for part in parts)
