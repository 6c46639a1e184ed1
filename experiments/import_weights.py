"""Make a run of somebody's weights: score-sde import-weights --help.

    score-sde import-weights --from=FILE --network=NAME --workdir=DIR

NAME is that of a published configuration, such as edm2/edm2-img512-xs, or of a
network, such as edm2, with its options in --config.network.OPTION=value and the format
of its data in --config.data.shape and num_levels (0 for latents). A file that
`export-weights` wrote says all of these by itself. The run draws samples
at once; --config.data.name=NAME gives it data to be scored and trained on.
"""

from __future__ import annotations

from typing import Any

from . import launch
from .export_weights import ABOUT, MEANING, OF_DATA

OPTIONS = {
    "from": "the weights: .safetensors, .npz, .pt, .pth, .pkl, a Flax checkpoint, or "
    "the .index.json of several files",
    "network": "a published configuration, or a network",
}


def main(command: launch.Command) -> None:
    """Write the config, imported.json and a checkpoint, or nothing at all."""
    from pathlib import Path

    import jax
    import jax.numpy as jnp

    from score_sde import weights
    from score_sde.networks import count_parameters
    from score_sde.run.build import build, network_module
    from score_sde.run.describe import print_dry_run
    from score_sde.run.same_run import describe
    from score_sde.run.train import initial_params
    from score_sde.runtime.folder import new_run, write_json
    from score_sde.training.checkpoints import Checkpoints
    from score_sde.training.optimizer import make_group_optimizer
    from score_sde.training.step import init_state
    from score_sde.weights.published import tables

    experiment = build(command.config)
    if command.dry_run:
        print_dry_run(command.config, experiment)
        return
    workdir, file = command.workdir, Path(command.options["from"])
    state = weights.state_dict(weights.read(file))
    like = jax.eval_shape(lambda: initial_params(experiment))
    network = command.config["network"]["name"]
    module, shape = network_module(command.config), experiment.dataset.shape
    known = tables(network, module, shape, like["network"])
    program, fitted = weights.fit(state, known, like["network"])
    params = {"network": jax.tree.map(jnp.asarray, fitted)}
    if like.keys() != params.keys():
        params |= {
            k: v for k, v in initial_params(experiment).items() if k != "network"
        }
    optimizer = make_group_optimizer(
        experiment.optimizer,
        params,
        num_steps=experiment.train.num_steps,
        groups=experiment.objective.optimizers(experiment.optimizer),
    )
    with new_run(workdir) as folder:
        describe(folder, command.config, {})
        made_by = {"file": file.name, "sha256": _digest(file), "program": program}
        write_json(folder / "imported.json", made_by)
        with Checkpoints(folder / "checkpoints") as checkpoints:
            checkpoints.save(init_state(params, optimizer))
    print(
        f"{workdir}: {len(known[program])} tensors of {program}, "
        f"{count_parameters(fitted):,} parameters"
    )


def _digest(file: Any) -> str:
    import hashlib

    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def default_config(options: dict[str, Any]) -> dict[str, Any]:
    """The config of a run of these weights, before what the command line changes.

    Raises: ValueError with the choices for an unknown network.
    """
    from score_sde.latents import AUTOENCODERS
    from score_sde.networks import NETWORKS
    from score_sde.run.sections import CHAIN_FIELDS
    from score_sde.weights.published import PUBLISHED, Published

    name, file = options["network"], options.get("from") or ""
    if name in PUBLISHED:
        published = PUBLISHED[name]
    elif name in AUTOENCODERS:
        facts = ((256, 256, 3), "edm", 0.002, 80.0)
        published = Published(name, {}, *facts, objective="autoencoder")
    elif name in NETWORKS:
        published = Published(name, {}, (32, 32, 3), "edm", 0.002, 80.0)
    else:
        import difflib

        close = difflib.get_close_matches(name, PUBLISHED, n=3, cutoff=0.3)
        raise ValueError(
            f"--network is {name!r}; choose a network from "
            f"{sorted({**NETWORKS, **AUTOENCODERS})}, or a "
            f"published configuration, such as {close or list(PUBLISHED)[:3]}."
        )
    low, high = published.sigma_min, published.sigma_max
    options = dict(published.options)
    num_classes, is_augmented = options.pop("num_classes", 0), "augment_dims" in options
    options.pop("augment_dims", None)
    precondition = dict(published.precondition_options)
    chain = {k: precondition.pop(k) for k in CHAIN_FIELDS if k in precondition}
    told: dict[str, Any] = {"label": {}} if num_classes else {}
    if published.factor:
        told["low_resolution"] = {
            "factor": published.factor,
            "num_levels": 256,
            "resize": "bilinear",
            "is_marked": False,
        }
    if is_augmented:
        told["augment"] = {"probability": 0.0}
    objective: dict[str, Any] = {"name": published.objective}
    trained: dict[str, Any] = {}
    if published.objective == "denoising":
        objective["learn_log_variance"] = published.network == "edm2"
        trained = {"noise_levels": {"name": "log_normal"}, "weight": {"name": "edm"}}
    config = {
        "seed": 0,
        "chain": chain,
        "data": {
            "name": "absent",
            "shape": published.shape,
            "num_levels": published.num_levels,
            "num_classes": num_classes,
            "sigma_data": 0.5,
        },
        "sde": {"name": "edm", "t_min": low, "t_max": high},
        "conditions": told,
        "network": {"name": published.network, **options},
        "precondition": {"name": published.precondition, **precondition},
        **trained,
        "objective": objective,
        "optimizer": {"learning_rate": 1e-4, "warmup_steps": 100},
        "train": {"num_steps": 10_000},
        "sampler": {"name": "heun"},
        "grid": {"name": "karras", "num_steps": 32},
        "sampling": {"num_samples": 16, "batch_size": 16},
        "likelihood": {},
    }
    stated = _stated_by(file)
    if stated.get("network", {}).get("name") != published.network:
        return config
    return config | stated | {"data": {**config["data"], **stated["data"]}}


def _stated_by(file: str) -> dict[str, Any]:
    """Read the description that `export-weights` wrote into a file; {} without one.

    Sections of other names are left where they are: a config may name files to open and
    parts to import.

    Raises: ValueError for a damaged one.
    """
    import json

    from safetensors import SafetensorError, safe_open

    if not file.endswith(".safetensors"):
        return {}
    try:
        with safe_open(file, "numpy") as opened:
            text = (opened.metadata() or {}).get(ABOUT)
    except (OSError, SafetensorError):
        return {}  # refused, with a reason, where its tensors are read
    if text is None:
        return {}
    try:
        found = json.loads(text)
        sections = {name: dict(found[name]) for name in MEANING}
        data = {name: found["data"][name] for name in OF_DATA}
        scoring = {"dequantisation": found["likelihood"]["dequantisation"]}
        told: dict[str, Any] = {"label": {}} if "label" in found["conditions"] else {}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--from is {file!r}: its {ABOUT} is damaged ({error!r})."
        ) from None
    return sections | {"data": data, "conditions": told, "likelihood": scoring}


if __name__ == "__main__":
    launch.run(main, __doc__ or "", options=OPTIONS, default=default_config)
