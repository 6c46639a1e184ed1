"""The published names and layouts of the common parts of the U-Nets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from score_sde.networks.resampling import Taps, filter_matrix
from score_sde.networks.tensors import (
    CONV,
    LINEAR,
    POINTWISE,
    POINTWISE_1D,
    Layout,
    Tensor,
    linear,
    norm,
)
from score_sde.networks.unet_blocks import Style
from score_sde.networks.unet_plan import Step


def song_levels(shape: tuple[int, ...]) -> Tensor:
    """The table of noise levels that score_sde's networks carry, largest first.

    Some of them divide by it, which is part of the preconditioning here, so that a file
    may have any other: its configurations for large images differ in the largest.
    """
    largest, number = (50, 1000) if shape[0] < 256 else (348, 2000)
    levels = np.exp(np.linspace(np.log(largest), np.log(0.01), number))
    return Tensor("sigmas", (), value=levels, unused=True)


class Numbered:
    """The entries of a network of score_sde, whose modules are one numbered list."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.entries = [song_levels(shape)]
        self.count = 0

    def add(
        self, make: Callable[..., list[Tensor]], *args: Any, **options: Any
    ) -> None:
        """The next module: make(name, *args, **options) gives its entries."""
        self.entries += make(f"all_modules.{self.count}", *args, **options)
        self.count += 1


def edm_filter(name: str, taps: Taps) -> Tensor:
    """A resampling filter, which EDM keeps in every layer that resamples."""
    return Tensor(f"{name}.resample_filter", (), value=filter_matrix(taps))


def edm_block(
    there: str, here: str, step: Step, style: Style, num_heads: int
) -> list[Tensor]:
    """A block, attention included, of NVlabs/edm."""
    filters = [style.resample_filter] if step.resample else []
    entries = [
        *norm(f"{there}.norm0", here, "norm0"),
        *linear(f"{there}.conv0", here, "conv0", layout=CONV),
        *(edm_filter(f"{there}.conv0", taps) for taps in filters),
        *linear(f"{there}.affine", here, "affine"),
        *norm(f"{there}.norm1", here, "norm1"),
        *linear(f"{there}.conv1", here, "conv1", layout=CONV),
    ]
    if style.projects(step.reads, step.width, step.resample):
        entries += linear(f"{there}.skip", here, "skip", layout=POINTWISE)
    entries += [edm_filter(f"{there}.skip", taps) for taps in filters]
    if step.attends:
        split = (num_heads, step.width // num_heads, 3)
        entries += norm(f"{there}.norm2", here, "norm2")
        entries += _edm_qkv(f"{there}.qkv", here, split, by_head=style.by_head)
        entries += linear(f"{there}.proj", here, "proj", layout=POINTWISE)
    return entries


def guided_block(there: str, here: str, step: Step, style: Style) -> list[Tensor]:
    """A block, without its attention, of openai/guided-diffusion."""
    entries = [
        *norm(f"{there}.in_layers.0", here, "norm0"),
        *linear(f"{there}.in_layers.2", here, "conv0", layout=CONV),
        *linear(f"{there}.emb_layers.1", here, "affine"),
        *norm(f"{there}.out_layers.0", here, "norm1"),
        *linear(f"{there}.out_layers.3", here, "conv1", layout=CONV),
    ]
    if style.projects(step.reads, step.width, step.resample):
        entries += linear(f"{there}.skip_connection", here, "skip", layout=POINTWISE)
    return entries


def guided_attention(there: str, here: str) -> list[Tensor]:
    """Attention of openai/guided-diffusion; its order of channels is an option here."""
    return [
        *norm(f"{there}.norm", here, "norm2"),
        *linear(f"{there}.qkv", here, "qkv", layout=POINTWISE_1D),
        *linear(f"{there}.proj_out", here, "proj", layout=POINTWISE_1D),
    ]


def song_block(
    there: str, here: str, step: Step, style: Style, *, shortcut: str
) -> list[Tensor]:
    """A block, without its attention, of score_sde, whose shortcut has this name."""
    entries = [
        *norm(f"{there}.GroupNorm_0", here, "norm0"),
        *linear(f"{there}.Conv_0", here, "conv0", layout=CONV),
        *linear(f"{there}.Dense_0", here, "affine"),
        *norm(f"{there}.GroupNorm_1", here, "norm1"),
        *linear(f"{there}.Conv_1", here, "conv1", layout=CONV),
    ]
    if style.projects(step.reads, step.width, step.resample):
        if shortcut.startswith("NIN"):
            entries += _nin(f"{there}.{shortcut}", here, "skip")
        else:
            name = f"{there}.{shortcut}"
            entries += linear(name, here, "skip", layout=POINTWISE)
    return entries


def song_attention(there: str, here: str) -> list[Tensor]:
    """Attention of score_sde, with a matrix for each of queries, keys and values."""
    entries = norm(f"{there}.GroupNorm_0", here, "norm2")
    for i in range(3):
        entries += _nin(f"{there}.NIN_{i}", here, "qkv", part=(i, 3))
    return entries + _nin(f"{there}.NIN_3", here, "proj")


def _nin(name: str, *path: str, part: tuple[int, int] | None = None) -> list[Tensor]:
    """A linear map that is stored as it is here."""
    return [
        Tensor(f"{name}.W", (*path, "kernel"), part=part),
        Tensor(f"{name}.b", (*path, "bias"), part=part),
    ]


def _edm_qkv(
    name: str, here: str, split: tuple[int, int, int], *, by_head: bool
) -> list[Tensor]:
    """The map to queries, keys and values, in the order of channels here.

    Args: `split` of the channels there: head, channel of the head, which of the three.
    """
    axes = (0, 2, 1) if by_head else (2, 0, 1)
    back = tuple(int(i) for i in np.argsort(axes))
    split_here = tuple(split[axis] for axis in axes)

    def to_here(a: np.ndarray) -> np.ndarray:
        return _permuted(a, split, axes)

    def to_published(a: np.ndarray) -> np.ndarray:
        return _permuted(a, split_here, back)

    weight = Layout(
        lambda a: to_here(POINTWISE.to_here(a)),
        lambda a: POINTWISE.to_published(to_published(a)),
    )
    return [
        Tensor(f"{name}.weight", (here, "qkv", "kernel"), weight),
        Tensor(f"{name}.bias", (here, "qkv", "bias"), Layout(to_here, to_published)),
    ]


def _permuted(
    a: np.ndarray, split: tuple[int, ...], axes: tuple[int, ...]
) -> np.ndarray:
    """The last axis, split in three, with the three in another order."""
    lead = a.ndim - 1
    order = (*range(lead), *(lead + axis for axis in axes))
    return a.reshape(*a.shape[:-1], *split).transpose(order).reshape(a.shape)


def out(norm_name: str, conv_name: str, *, prefix: str = "out") -> list[Tensor]:
    """The norm and the convolution that end a network."""
    return [
        *norm(norm_name, f"{prefix}_norm"),
        *linear(conv_name, f"{prefix}_conv", layout=CONV),
    ]


def matrix(name: str, *path: str) -> Tensor:
    """A linear map without bias."""
    return Tensor(f"{name}.weight", (*path, "kernel"), LINEAR)
