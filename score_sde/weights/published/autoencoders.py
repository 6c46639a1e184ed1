"""Autoencoders of Rombach et al. 2022, TAESD and DC-AE: configurations and tensors.

The convolutional ones have the names of latent-diffusion (`compvis`) or of diffusers;
`diffusers_old` is diffusers before version 0.18. A file of a whole latent diffusion has
the autoencoder behind a prefix, which `fit` finds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax

from score_sde.latents import (
    Autoencoder,
    DeepAutoencoder,
    TinyAutoencoder,
)
from score_sde.latents.discriminator import PatchDiscriminator
from score_sde.weights.published.publication import EDM_LEVELS, Published
from score_sde.weights.published.tensors import (
    AS_IS,
    CONV,
    LINEAR,
    POINTWISE,
    Layout,
    Tensor,
)

SIDE = 256
"""Of the images that they were trained on."""
Rename = Callable[[tuple[str, ...]], str]
"""The path of a module of parameters here -> its published name."""


def configurations() -> dict[str, Published]:
    """Configurations of Rombach et al. 2022, table 8, and later ones by diffusers."""
    convolutional: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
        "kl-f4": (3, (1, 2, 4), ()),
        "kl-f8": (4, (1, 2, 4, 4), ()),
        "kl-f16": (16, (1, 1, 2, 2, 4), (4,)),
        "kl-f32": (64, (1, 1, 2, 2, 4, 4), (4, 5)),
        "vq-f4": (3, (1, 2, 4), ()),
        "vq-f4-noattn": (3, (1, 2, 4), ()),
        "vq-f8": (4, (1, 2, 2, 4), (3,)),
        "vq-f8-n256": (4, (1, 2, 2, 4), (3,)),
        "vq-f16": (8, (1, 1, 2, 2, 4), (4,)),
    }
    codes = {"vq-f4": 8192, "vq-f4-noattn": 8192, "vq-f8-n256": 256}
    made = {}
    for name, (latent, multipliers, attention) in convolutional.items():
        options: dict[str, Any] = {
            "latent_channels": latent,
            "multipliers": multipliers,
            "attention_levels": attention,
        }
        if name.startswith("vq"):
            options |= {"codebook_size": codes.get(name, 16384), "legacy_loss": True}
            options["mid_attention"] = name != "vq-f4-noattn"
        made[f"latent_diffusion/{name}"] = _published(
            f"{name[:2]}_autoencoder", options
        )
    sixteen = {"latent_channels": 16, "quant_conv": False}
    made["diffusers/sd-vae"] = _published("kl_autoencoder", {})
    made["diffusers/sd3-vae"] = _published("kl_autoencoder", sixteen)
    made["diffusers/taesd"] = _published("taesd", {})
    made["diffusers/dc-ae-f32c32"] = _published("dc_ae", {})
    return made


def _published(network: str, options: dict[str, Any]) -> Published:
    return Published(
        network,
        options,
        (SIDE, SIDE, 3),
        "edm",
        *EDM_LEVELS,
        objective="autoencoder",
    )


IGNORED = tuple(
    Tensor(f"{prefix}.*", (), unused=True) for prefix in ("loss", "model_ema")
)
"""What files of latent-diffusion have beside: its losses, and averages of all."""


def compvis_tensors(module: Autoencoder, shape: Any) -> tuple[Tensor, ...]:
    """Entries of a state dict of latent-diffusion."""
    del shape
    return (*_renamed(module, _compvis, POINTWISE), *IGNORED)


def diffusers_tensors(module: Any, shape: Any) -> tuple[Tensor, ...]:
    """Entries of a state dict of diffusers."""
    del shape
    return _renamed(module, lambda path: _diffusers(module, path), LINEAR)


def old_diffusers_tensors(module: Any, shape: Any) -> tuple[Tensor, ...]:
    """Entries of a state dict of diffusers before its attention had other names."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(tensor: Tensor) -> Tensor:
        name = tensor.name
        for new, word in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{word}.")
        return tensor._replace(name=name)

    return tuple(map(renamed, diffusers_tensors(module, shape)))


def tiny_tensors(module: TinyAutoencoder, shape: Any) -> tuple[Tensor, ...]:
    """Entries of a state dict of TAESD."""
    del shape
    last = 2 + sum(module.decoder_blocks) + 2 * (len(module.decoder_blocks) - 1)

    def name_of(path: tuple[str, ...]) -> str:
        words = [w.replace("conv_out", f"layers_{last}") for w in path]
        return ".".join(w.replace("_", ".") for w in words)

    return _renamed(module, name_of, LINEAR)


def deep_tensors(module: DeepAutoencoder, shape: Any) -> tuple[Tensor, ...]:
    """Entries of a state dict of DC-AE in diffusers."""
    del shape
    inside = {
        "scale_in": "to_qkv_multiscale.0.proj_in",
        "scale_out": "to_qkv_multiscale.0.proj_out",
    }

    def name_of(path: tuple[str, ...]) -> str:
        half, *rest = path
        words = [inside.get(word, word) for word in rest]
        if found := re.fullmatch(r"(down|up)_(\d+)_(\d+)", words[0]):
            side, level, number = found.groups()
            words[0] = f"{side}_blocks.{level}.{number}"
            if len(words) == 1:  # halving and doubling are a convolution alone
                words.append("conv")
        return ".".join([half, *words])

    pointwise = ("conv_inverted", "conv_point")
    return tuple(
        t._replace(layout=POINTWISE)
        if t.path[-1] == "kernel" and t.path[-2] in pointwise
        else t
        for t in _renamed(module, name_of, LINEAR)
    )


def discriminator_tensors(module: PatchDiscriminator) -> tuple[Tensor, ...]:
    """Entries of a state dict of the patch discriminator with batch norms."""
    words = {"mean": "running_mean", "var": "running_var"}
    entries = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(module.shapes()):
        *where, last = (str(entry.key) for entry in path)
        name = where[0].replace("_", ".")
        word = words.get(last, "weight" if last in ("kernel", "scale") else "bias")
        layout = CONV if leaf.ndim == 4 else AS_IS
        entries.append(Tensor(f"{name}.{word}", (*where, last), layout))
        if last == "var":  # a counter, which nothing reads
            entries.append(Tensor(f"{name}.num_batches_tracked", (), unused=True))
    return tuple(entries)


def _renamed(module: Any, rename: Rename, attention: Layout) -> tuple[Tensor, ...]:
    """An entry for each parameter of an autoencoder but its statistics.

    Args:
        module: the autoencoder.
        rename: the name of a module of parameters.
        attention: layout of the linear maps inside attention.
    """
    coder = module.parts()
    x = jax.ShapeDtypeStruct((1, *[coder.factor] * 2, module.shape[-1]), "float32")
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), x)["params"]
    entries = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        words = tuple(str(entry.key) for entry in path)
        if words[0] == "statistics":
            continue
        if words[-1] == "embedding":
            entries.append(Tensor("quantize.embedding.weight", words))
            continue
        layout = AS_IS
        if words[-1] == "kernel":
            layout = CONV if leaf.ndim == 4 else POINTWISE
            if any("attn" in w for w in words):
                layout = attention if leaf.ndim == 2 else CONV
        last = "bias" if words[-1] == "bias" else "weight"
        entries.append(Tensor(f"{rename(words[:-1])}.{last}", words, layout))
    return tuple(entries)


OUTER = {"quant": "quant_conv", "post_quant": "post_quant_conv"}
LAYERS_COMPVIS = {"shortcut": "nin_shortcut", "out": "proj_out"}
LAYERS_DIFFUSERS = {
    "shortcut": "conv_shortcut",
    "norm": "group_norm",
    **{n: f"to_{n}" for n in "qkv"},
    "out": "to_out.0",
}


def _compvis(path: tuple[str, ...]) -> str:
    if path[0] in OUTER:
        return OUTER[path[0]]
    half, part, *rest = path
    part = re.sub(r"^(down|up)_(\d+)_(block|attn)_(\d+)$", r"\1.\2.\3.\4", part)
    part = re.sub(r"^(down|up)_(\d+)_(downsample|upsample)$", r"\1.\2.\3", part)
    part = re.sub(r"^mid_", "mid.", part)
    return ".".join([half, part, *(LAYERS_COMPVIS.get(w, w) for w in rest)])


def _diffusers(module: Any, path: tuple[str, ...]) -> str:
    if path[0] in OUTER:
        return OUTER[path[0]]
    half, part, *rest = path
    last = len(module.multipliers) - 1
    if found := re.fullmatch(r"(down|up)_(\d+)_(\w+?)(?:_(\d+))?", part):
        side, level, kind, number = found.groups()
        place = int(level) if side == "down" else last - int(level)
        layer = {"block": "resnets", "attn": "attentions"}.get(kind, f"{kind}rs")
        part = f"{side}_blocks.{place}.{layer}.{number or 0}"
    part = {
        "mid_block_1": "mid_block.resnets.0",
        "mid_block_2": "mid_block.resnets.1",
        "mid_attn_1": "mid_block.attentions.0",
        "norm_out": "conv_norm_out",
    }.get(part, part)
    return ".".join([half, part, *(LAYERS_DIFFUSERS.get(w, w) for w in rest)])
