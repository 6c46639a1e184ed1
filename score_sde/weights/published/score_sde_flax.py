"""score_sde in Flax: the tensors of its files, from those of its port to PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import groupby

from score_sde.networks import DDPMUNet, SongUNet
from score_sde.weights.published import score_sde_pytorch
from score_sde.weights.published.tensors import (
    AS_IS,
    CONV,
    POINTWISE,
    Layout,
    Tensor,
)

POINTWISE_HERE = Layout(lambda a: a[0, 0], lambda a: a[None, None])
"""1x1 convolution as Flax stores it there, and a linear map here."""


def ddpm_tensors(module: DDPMUNet, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Entries of a checkpoint of score_sde's `ddpm`; none if it can't have any."""
    ported = score_sde_pytorch.ddpm_tensors(module, shape)
    return flax_tensors(ported, block="ResnetBlockDDPM")


def song_unet_tensors(module: SongUNet, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Entries of a checkpoint of score_sde's `ncsnpp`; none if it can't have any."""
    ported = score_sde_pytorch.song_unet_tensors(module, shape)
    block = {"biggan": "ResnetBlockBigGANpp", "ddpm": "ResnetBlockDDPMpp"}
    return flax_tensors(ported, block=block[module.block])


def flax_tensors(ported: Iterable[Tensor], *, block: str) -> tuple[Tensor, ...]:
    """Entries of a Flax checkpoint, from those of the same network in PyTorch.

    The port has its modules in one list, in the order in which Flax made them; Flax
    numbers those of each class by themselves.

    Args:
        ported: the entries in PyTorch.
        block: the class of the residual blocks; that of attention is named alike.
    """
    counts: Counter[str] = Counter()
    entries = []
    numbered = (tensor for tensor in ported if tensor.name.startswith("all_modules."))
    for _, group in groupby(numbered, key=lambda t: t.name.split(".")[1]):
        tensors = list(group)
        parts = [tensor.name.split(".", 2)[2] for tensor in tensors]
        kind = _kind(tensors, parts, block)
        module = f"{kind}_{counts[kind]}"
        counts[kind] += 1
        for tensor, part in zip(tensors, parts, strict=True):
            name = f"{module}.{_renamed(part, tensor)}"
            entries.append(tensor._replace(name=name, layout=_layout(tensor)))
    return tuple(entries)


def _kind(tensors: list[Tensor], parts: list[str], block: str) -> str:
    """The class of a module, by what it has."""
    first = tensors[0]
    if "NIN_3.W" in parts:
        return "AttnBlockpp" if block.endswith("pp") else "AttnBlock"
    if "GroupNorm_1.weight" in parts:
        return block
    if parts == ["W"]:
        return "GaussianFourierProjection"
    if "Conv2d_0.weight" in parts:
        return "Downsample"
    if "Conv_0.weight" in parts:
        if first.layout is POINTWISE:
            return "Combine"
        return "Upsample" if first.path[0].endswith("up") else "Downsample"
    if first.path[-1] == "scale":
        return "GroupNorm"
    return "Conv" if first.layout is CONV else "Dense"


def _renamed(part: str, tensor: Tensor) -> str:
    """Flax says kernel and scale where torch says weight."""
    if part.startswith("Conv2d_0"):
        return part  # a layer of their own
    word = "scale" if tensor.path[-1] == "scale" else "kernel"
    return f"{part.removesuffix('weight')}{word}" if part.endswith("weight") else part


def _layout(tensor: Tensor) -> Layout:
    return POINTWISE_HERE if tensor.layout is POINTWISE else AS_IS
