"""Published models: their configurations, and the tensor names of their programs.

Facts of the papers and their programs, a file for each program. A file has a function
`configurations()`, and functions of a module and the shape of an example that give one
`Tensor` for each entry of a published state dict.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from score_sde.weights.published import (
    autoencoders,
    dit,
    edm,
    edm2,
    guided_diffusion,
    score_sde_flax,
    score_sde_pytorch,
)
from score_sde.weights.published.publication import Published as Published
from score_sde.weights.published.tensors import Tensor, own_tensors

PUBLISHED: dict[str, Published] = {
    **score_sde_pytorch.configurations(),
    **edm.configurations(),
    **guided_diffusion.configurations(),
    **edm2.configurations(),
    **dit.configurations(),
    **autoencoders.configurations(),
}
"""Name of a published model -> its configuration."""

TENSORS: dict[str, dict[str, Callable[..., tuple[Tensor, ...]]]] = {
    "ddpm": {
        "score_sde_pytorch": score_sde_pytorch.ddpm_tensors,
        "score_sde_flax": score_sde_flax.ddpm_tensors,
    },
    "song_unet": {
        "edm": edm.song_unet_tensors,
        "score_sde_pytorch": score_sde_pytorch.song_unet_tensors,
        "score_sde_flax": score_sde_flax.song_unet_tensors,
    },
    "adm": {
        "guided_diffusion": guided_diffusion.adm_tensors,
        "edm": edm.adm_tensors,
    },
    "edm2": {"edm2": edm2.tensors},
    "dit": {"dit": dit.tensors},
    **dict.fromkeys(
        ("kl_autoencoder", "vq_autoencoder"),
        {
            "compvis": autoencoders.compvis_tensors,
            "diffusers": autoencoders.diffusers_tensors,
            "diffusers_old": autoencoders.old_diffusers_tensors,
        },
    ),
    "taesd": {"diffusers": autoencoders.tiny_tensors},
    "dc_ae": {"diffusers": autoencoders.deep_tensors},
}
"""Network -> program -> the names and layouts of that program's files."""


def tables(
    network: str, module: Any, shape: tuple[int, ...], params: Any
) -> dict[str, tuple[Tensor, ...]]:
    """Program -> the entries of its files of this network; "here" is our own way.

    Args:
        network: its name in a config.
        module: the Linen module.
        shape: of one example.
        params: its parameters, or their shapes.
    """
    published = {
        program: make(module, shape)
        for program, make in TENSORS.get(network, {}).items()
    }
    published = {program: table for program, table in published.items() if table}
    return {**published, "here": own_tensors(params)}
