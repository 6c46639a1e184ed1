"""Write statistics of features: score-sde reference-stats --workdir=DIR.

--config.features.name=NAME     the features: classifier, inception, ...
--config.evaluation.against=S   the split of the data, train or test
--config.evaluation.num_real=N  of its first N examples; 0 for all

Writes reference.npz: number, mean (mu) and covariance (sigma) of the features, and what
they were made of. `evaluate --config.evaluation.reference=DIR/reference.npz` measures
against it, and refuses to where its features are others.
"""

from __future__ import annotations

from . import launch


def main(command: launch.Command) -> None:
    """Write reference.npz, and print what it holds."""
    from score_sde.evaluation.statistics import read_statistics
    from score_sde.run.build import build
    from score_sde.run.describe import print_dry_run
    from score_sde.run.reference import write_reference
    from score_sde.run.sections import complete
    from score_sde.runtime.mesh import start_devices

    config = complete(command.config)
    experiment = build(config)
    if command.dry_run:
        print_dry_run(command.config, experiment)
        return
    start_devices(command.hosts)
    path, dims = write_reference(experiment, config, command.workdir)
    found = read_statistics(path, dims=dims)
    print(f"{found}\nuse them: evaluate --config.evaluation.reference={path}")


if __name__ == "__main__":
    launch.run(main, __doc__ or "")
