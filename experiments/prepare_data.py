"""Prepare data: convert a user's own, or download and check those of a config.

    score-sde prepare-data --from=PATH --to=OUT.npz [--size=32] [--labels=...]

converts a folder or .zip archive of pictures, an .npy, .npz or .csv file, says what it
did to how many, and writes what --config.data.name=files --config.data.path=OUT.npz
reads, without anything else that has to be stated.

    score-sde prepare-data --config=NAME --workdir=DIR

prepares the data of a config, reads all of them, and says what was found. Data of
TensorFlow Datasets are downloaded, if they are not yet, into --config.data.folder.
Every example of any data set is read and checked once.
"""

from __future__ import annotations

import sys
from typing import Any

from . import launch

CONVERSION = {
    "from": ("PATH", str, "pictures in a folder or a .zip, an .npy, .npz or .csv file"),
    "to": ("OUT.npz", str, "the file that is written; it must not be there"),
    "size": ("N", int, "resize the central square of each image to N x N pixels"),
    "labels": (
        "WHERE",
        str,
        "'folders' or a .json or .csv file, a column, an array, or a file of them",
    ),
    "like": ("NPZ", str, "a prepared file, whose size, units and classes these get"),
    "levels": ("N", int, "grey levels of the images of an array; 256 by default"),
}
"""Option -> (what its value is called, type, help)."""


def options_text() -> str:
    """Describe the options of a conversion, a line each."""
    rows = [(f"--{name}={v}", text) for name, (v, _, text) in CONVERSION.items()]
    width = max(len(option) for option, _ in rows)
    return "\n".join(
        ["options of a conversion:", *(f"  {a:<{width}}  {text}" for a, text in rows)]
    )


def converts(words: list[str]) -> bool:
    """Whether a command line asks to convert data, not to prepare those of a config."""
    given = {word.partition("=")[0] for word in words}
    return not given.isdisjoint(f"--{name}" for name in CONVERSION)


def convert_main(words: list[str]) -> int:
    """Convert a user's data; return the exit code."""
    parser = launch.Parser(description=__doc__)
    for option, (value, kind, text) in CONVERSION.items():
        parser.add_argument(f"--{option}", metavar=value, type=kind, help=text)
    known, unknown = parser.parse_known_args(words)
    parser.refuse_unknown(unknown)
    parser.require(known, "from", "to")
    for name in ("size", "levels"):
        number = getattr(known, name)
        if number is not None and number < 1:
            parser.error(f"--{name} is {number}; it must be at least 1")

    from score_sde.data.convert import checked_target, convert, write
    from score_sde.types import UserError

    try:
        place = checked_target(known.to)
        made = convert(
            getattr(known, "from"),
            size=known.size or 0,
            labels=known.labels or "",
            levels=known.levels or 0,
            like=known.like or "",
        )
        write(made, place)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    print(*(f"  {line}" for line in made.done), sep="\n")
    what = f"{made.num_levels} levels" if made.num_levels else "floats"
    print(
        f"{place}: {len(made.values):,} examples of shape {made.values.shape[1:]}, "
        f"{what}, standard deviation {made.sigma_data:.3g}\n"
        f"use them: --config.data.name=files --config.data.path={place}"
    )
    return 0


def main(command: launch.Command) -> None:
    """Write data.json, with counts and moments, and data.png, with some examples."""
    import numpy as np

    from score_sde.data import Format
    from score_sde.data.prepare import BLOCK, prepare, survey
    from score_sde.data.sources import is_prepared_by_tfds
    from score_sde.evaluation.plots import save_samples
    from score_sde.run.build import build
    from score_sde.run.describe import print_dry_run
    from score_sde.runtime.folder import write_json
    from score_sde.runtime.preemption import stop_if_requested
    from score_sde.runtime.progress import Progress

    experiment = build(command.config)
    if command.dry_run:
        print_dry_run(command.config, experiment)
        return
    dataset, source = experiment.dataset, command.config["data"]
    if is_prepared_by_tfds(source["name"]):
        prepare(source["name"], source["folder"])

    def surveyed(split: str) -> dict[str, Any]:
        bar = Progress(f"reading {split}", -(-len(dataset.split(split)) // BLOCK))

        def progress(read: int) -> None:
            stop_if_requested(f"stopped after {read:,} examples; nothing is written.")
            bar.part_done(-(-read // BLOCK))

        return survey(dataset, split, progress=progress)

    found = {split: surveyed(split) for split in ("train", "test")}
    write_json(
        command.workdir / "data.json",
        {"name": dataset.name, "shape": dataset.shape, "num_levels": dataset.num_levels}
        | found,
    )
    shown = dataset.train[np.arange(min(64, len(dataset.train)))]["values"]
    picture = command.workdir / "data.png"
    save_samples(picture, shown, num_levels=dataset.num_levels)
    format = Format(dataset.shape, dataset.num_levels, dataset.num_classes)
    print(f"{dataset.name}: {format}")
    for split, row in found.items():
        print(
            f"  {split:<5} {row['examples']:>9,} examples, mean {row['mean']:+.3f}, "
            f"standard deviation {row['std']:.3f}"
        )
        if "labels" in row:
            few, many = min(row["labels"]), max(row["labels"])
            print(f"        {len(row['labels'])} classes of {few:,} to {many:,}")
    print(f"all of them were read, without a fault; some of them: {picture}")


if __name__ == "__main__":
    if converts(sys.argv[1:]):
        sys.exit(convert_main(sys.argv[1:]))
    launch.run(main, f"{__doc__ or ''}\n{options_text()}")
