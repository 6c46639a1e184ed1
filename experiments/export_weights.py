"""Write a run's weights: python -m experiments.export_weights --workdir=DIR --to=FILE.

FILE ends in .safetensors. It gets the moving average, under the names of the program
that it was imported from, or that published such networks, or under our own.
"""

from __future__ import annotations

from pathlib import Path

from . import launch

OPTIONS = {"to": "a new file, *.safetensors"}


def main(command: launch.Command) -> None:
    """Write the file, whole or not at all."""
    import jax
    from safetensors.numpy import save_file

    from score_sde import weights
    from score_sde.data.local import replaced
    from score_sde.run.build import network_module
    from score_sde.run.describe import opened
    from score_sde.types import UserError
    from score_sde.weights.published import tables

    file = Path(command.options["to"])
    if file.suffix != ".safetensors":
        raise UserError(f"--to is {str(file)!r}; it must end in .safetensors.")
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
    with replaced(file) as partial:
        save_file(arrays, partial, metadata={"names": program, "step": str(run.step)})
    print(f"{file}: {len(arrays)} tensors, named as those of {program}")


def _imported_from(workdir: Path) -> str | None:
    """The program whose names the run's weights had, if they were imported."""
    import json

    file = workdir / "imported.json"
    return json.loads(file.read_text())["program"] if file.exists() else None


if __name__ == "__main__":
    launch.run(main, __doc__ or "", options=OPTIONS)
