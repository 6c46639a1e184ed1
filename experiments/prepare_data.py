"""Prepare the data of a config, read all of them, and say what was found.

    python -m experiments.prepare_data --config=configs/digits.py --workdir=DIR

Data of TensorFlow Datasets are downloaded and prepared, if they are not yet, in
--config.data.folder. Every example of any data set is read and checked once.
"""

from __future__ import annotations

from . import launch


def main(command: launch.Command) -> None:
    """Write data.json, with counts and moments, and data.png, with some examples."""
    import numpy as np

    from score_sde.data import Format
    from score_sde.data.prepare import prepare, survey
    from score_sde.data.sources import is_prepared_by_tfds
    from score_sde.evaluation.plots import save_samples
    from score_sde.run.build import build
    from score_sde.run.describe import print_dry_run
    from score_sde.runtime.folder import write_json
    from score_sde.runtime.preemption import stop_if_requested

    experiment = build(command.config)
    if command.dry_run:
        print_dry_run(command.config, experiment)
        return
    dataset, source = experiment.dataset, command.config["data"]
    if is_prepared_by_tfds(source["name"]):
        prepare(source["name"], source["folder"])

    def progress(read: int) -> None:
        stop_if_requested(f"stopped after {read:,} examples; nothing is written.")

    found = {s: survey(dataset, s, progress=progress) for s in ("train", "test")}
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
    launch.run(main, __doc__ or "")
