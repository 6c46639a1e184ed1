"""Names of the published weights of feature networks (PyTorch state dicts)."""

from __future__ import annotations

from typing import Any

import jax

from score_sde.networks.features.vgg import SCALE, SHIFT, SLICES
from score_sde.weights.published.tensors import AS_IS, CONV, LINEAR, Tensor

NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
"""How the last word of a parameter here is called in PyTorch; others are the same."""


def tensors_of(shapes: Any) -> tuple[Tensor, ...]:
    """The entries of a published state dict whose names the parameters' paths spell.

    Args:
        shapes: the pytree of parameters, or of their shapes.
    """
    entries = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        words = tuple(str(entry.key) for entry in path)
        name = ".".join((*words[:-1], NAMES.get(words[-1], words[-1])))
        layout = AS_IS
        if words[-1] == "kernel":
            layout = CONV if leaf.ndim == 4 else LINEAR
        entries.append(Tensor(name, words, layout))
    return tuple(entries)


def own_tables(shapes: Any) -> dict[str, tuple[Tensor, ...]]:
    """The names of a file that the paths of the parameters spell.

    Args:
        shapes: the pytree of parameters, or of their shapes.
    """
    return {"published": tensors_of(shapes)}


def lpips_tables(shapes: Any) -> dict[str, tuple[Tensor, ...]]:
    """The names that files of lpips, and of torchvision and lpips together, use.

    Args:
        shapes: the pytree of parameters, or of their shapes.
    """
    constants = (
        Tensor("scaling_layer.shift", (), value=SHIFT.reshape(1, 3, 1, 1)),
        Tensor("scaling_layer.scale", (), value=SCALE.reshape(1, 3, 1, 1)),
    )
    # The list of heads is in the file twice; the classifier has no part in it.
    again = [f"lins.{i}.model.1.weight" for i in range(len(SLICES))]
    classifier = [f"classifier.{i}.{w}" for i in (0, 3, 6) for w in ("weight", "bias")]
    unused = tuple(Tensor(name, (), unused=True) for name in again + classifier)
    ours = tensors_of(shapes)
    numbers = {
        f"net.slice{i + 1}.{n}": f"features.{n}"
        for i, (_, many) in enumerate(SLICES)
        for n in many
    }
    theirs = tuple(
        t._replace(name=f"{numbers[t.path[0]]}.{t.name.rsplit('.', 1)[1]}")
        if t.path[0] in numbers
        else t
        for t in ours
    )
    return {
        "lpips": ours + constants + unused,
        "torchvision": theirs + constants + unused,
    }
