"""Tune the noise levels of a sampler: score-sde tune-sampler --workdir=DIR.

    score-sde tune-sampler --workdir=DIR --config.grid.num_steps=10

From the same noise, samples end some way off the end of the probability flow. The
levels of the grid are moved until that distance falls no further, for the sampler, the
guidance and the number of steps of the run; other paths, which it was not tuned on,
show what was gained. Prints the fields by which `sample` and `evaluate` use the levels;
tuned_grid.json keeps them.
"""

from __future__ import annotations

from . import launch


def main(command: launch.Command) -> None:
    """Write tuned_grid.json, and print the levels."""
    from score_sde.run.describe import opened
    from score_sde.run.provenance import circumstances, made_by
    from score_sde.run.tune import tune
    from score_sde.runtime.folder import write_json
    from score_sde.runtime.mesh import is_main_host

    run = opened(command)
    if run is None:
        return
    found = tune(run)
    levels = [float(f"{level:.5g}") for level in found.tuned.sigmas[:-1].tolist()]
    print(
        f"{len(levels)} steps; distance from the end of the flow, on paths that were "
        "not tuned on:"
    )
    for name, distance in sorted(found.held_out.items(), key=lambda row: -row[1]):
        print(f"  {distance:.5f}  {name}")
    fields = ",".join(map(str, levels))
    print(f"--config.grid.name=levels --config.grid.sigmas={fields}")
    report = {
        "sigmas": levels,
        "begun_with": found.tuned.start,
        "distance": found.held_out,
        "made_by": made_by("samples", run),
        **circumstances(),
    }
    if is_main_host():
        write_json(command.workdir / "tuned_grid.json", report)


if __name__ == "__main__":
    launch.run(main, __doc__ or "")
