"""Write a run's weights: score-sde export-weights --workdir=DIR --to=FILE.

FILE ends in .safetensors. It gets the moving average, under the names of the program
that it was imported from, or that published such networks, or under our own; and, for
`import-weights`, what no tensor shows: the network's options, its preconditioner, the
SDE, the format of the data, their sigma_data, and which points of a level it was
trained on and is scored at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import launch

ABOUT = "score_sde.config"
"""The name of what a file says of its run."""
MEANING = ("network", "precondition", "chain", "sde")
"""Sections that decide what a network's output means."""
OF_DATA = ("shape", "num_levels", "num_classes", "sigma_data", "points")
"""Fields of section data that do."""
OPTIONS = {"to": "a new file, *.safetensors"}


def main(command: launch.Command) -> None:
    """Write the file, whole or not at all."""
    import jax
    from safetensors.numpy import save

    from score_sde import weights
    from score_sde.data.local import replaced
    from score_sde.run.build import network_module
    from score_sde.run.describe import opened
    from score_sde.types import UserError
    from score_sde.weights.published import tables

    file = Path(command.options["to"])
    if file.suffix != ".safetensors":
        raise UserError(f"--to is {str(file)!r}; it must end in .safetensors.")
    if file.exists():
        raise UserError(f"--to is {str(file)!r}, which is there already.")
    run = opened(command, needs="")
    if run is None:
        return
    params = jax.device_get(run.params["network"])
    network = command.config["network"]["name"]
    module, shape = network_module(command.config), run.experiment.dataset.shape
    known = tables(network, module, shape, params)
    program = _imported_from(command.workdir)
    if program not in known:
        program = next(iter(known))
    table = known[program]
    arrays = weights.published_arrays(params, table)
    about = {"names": program, "step": str(run.step), ABOUT: _about(run)}
    with replaced(file) as partial:
        # Not by save_file, whose files their owner alone may read.
        partial.write_bytes(save(arrays, metadata=about))
    print(f"{file}: {len(arrays)} tensors, named as those of {program}")


def _about(run: Any) -> str:
    """Describe the run for `import-weights`, by sections of a config in JSON."""
    import json

    config, dataset = run.config, run.experiment.dataset
    levels, sigma = dataset.num_levels or 0, run.experiment.model.sigma_data
    points, scoring = config["data"]["points"], config["likelihood"]["dequantisation"]
    if points == "variational":  # whose flow is no part of the network
        points = scoring = "uniform"
    values = (dataset.shape, levels, dataset.num_classes, sigma, points)
    told: dict[str, Any] = {"label": {}} if "label" in config["conditions"] else {}
    return json.dumps(
        {
            **{name: config[name] for name in MEANING},
            "data": dict(zip(OF_DATA, values, strict=True)),
            "conditions": told,
            "likelihood": {"dequantisation": scoring},
        }
    )


def _imported_from(workdir: Path) -> str | None:
    """The program whose names the run's weights had, if they were imported."""
    import json

    file = workdir / "imported.json"
    return json.loads(file.read_text())["program"] if file.exists() else None


if __name__ == "__main__":
    launch.run(main, __doc__ or "", options=OPTIONS)
