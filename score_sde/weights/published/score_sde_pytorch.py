"""score_sde in PyTorch: configurations and tensors of its files (Song et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from score_sde.networks import DDPMUNet, SongUNet
from score_sde.networks.unet_blocks import Style
from score_sde.networks.unet_plan import PlannedBlock
from score_sde.weights.published.publication import (
    LINEAR_CHAIN_LEVELS,
    SUBVP_LEVELS,
    VP_LEVELS,
    Published,
    published,
)
from score_sde.weights.published.tensors import (
    CONV,
    POINTWISE,
    Tensor,
    linear,
    norm,
)

_FIR: dict[str, Any] = dict(resample_filter=(1, 3, 3, 1))
_FILE = "checkpoint_*.pth"


def configurations() -> dict[str, Published]:
    """Configurations of Song et al. 2021, app. H, by those of its program."""
    made = {**_cifar10(), **_large()}
    return {f"score_sde/{name}": configuration for name, configuration in made.items()}


def _cifar10() -> dict[str, Published]:
    """Configurations of CIFAR-10."""
    vp: dict[str, Any] = dict(precondition="vp", levels=VP_LEVELS)
    subvp: dict[str, Any] = dict(precondition="subvp", levels=SUBVP_LEVELS)
    ve: dict[str, Any] = dict(precondition="ve", levels=(0.02, 100.0))
    chain: dict[str, Any] = dict(precondition="chain", levels=LINEAR_CHAIN_LEVELS)
    ladder: dict[str, Any] = dict(precondition="ve_ladder", levels=(0.02, 100.0))
    ncsnpp = _FIR | dict(progressive_input="residual")
    fourier = ncsnpp | dict(embedding="fourier")
    deep = dict(blocks_per_level=8)
    kinds: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
        "vp/ddpm/cifar10": ("ddpm", {}, chain),
        "vp/ddpm/cifar10_continuous": ("ddpm", {}, vp),
        "vp/cifar10_ddpmpp": ("song_unet", {}, chain),
        "ve/cifar10_ddpm": ("ddpm", {}, ladder),
        "ve/cifar10_ncsnpp": ("song_unet", ncsnpp, ladder),
        "ve/cifar10_ncsnpp_continuous": ("song_unet", fourier, ve),
        "ve/cifar10_ncsnpp_deep_continuous": ("song_unet", fourier | deep, ve),
    }
    for name, process in (("vp", vp), ("subvp", subvp)):
        for depth, more in (("", {}), ("_deep", deep)):
            end = f"{depth}_continuous"
            kinds[f"{name}/cifar10_ddpmpp{end}"] = ("song_unet", more, process)
            kinds[f"{name}/cifar10_ncsnpp{end}"] = ("song_unet", ncsnpp | more, process)
    return {
        name: published(network, options, shape=(32, 32, 3), file=_FILE, **process)
        for name, (network, options, process) in kinds.items()
    }


def _large() -> dict[str, Published]:
    """Configurations of images of 256 and of 1,024 pixels a side."""
    both: dict[str, Any] = _FIR | dict(
        embedding="fourier",
        dropout=0.0,
        progressive_input="input_skip",
        progressive="output_skip",
    )
    at_256 = both | dict(multipliers=(1, 1, 2, 2, 2, 2, 2), blocks_per_level=2)
    at_1024 = both | dict(
        channels=16, multipliers=(1, 2, 4, 8, 16, 32, 32, 32), blocks_per_level=1
    )
    kinds = {
        "celebahq_256": (348, 256),
        "ffhq_256": (348, 256),
        "church": (380, 256),
        "bedroom": (378, 256),
        "ffhq": (1348, 1024),
    }
    return {
        f"ve/{name}_ncsnpp_continuous": published(
            "song_unet",
            at_256 if side == 256 else at_1024,
            shape=(side, side, 3),
            precondition="ve",
            levels=(0.02, 2.0 * sigma_max),
            file=_FILE,
        )
        for name, (sigma_max, side) in kinds.items()
    }


def ddpm_tensors(module: DDPMUNet, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Entries of score_sde's `ddpm`; () for a network with conditions."""
    if module.num_classes or module.vector_dims:
        return ()
    steps = module.plan(shape[0])
    modules = _Numbered(shape)
    modules.add(linear, "map_layer0")
    modules.add(linear, "map_layer1")
    modules.add(linear, "in_conv", layout=CONV)
    for part, blocks in (("enc", steps.encoder), ("dec", steps.decoder)):
        for step in blocks:
            here = f"{part}_{step.name}"
            if step.resample:
                modules.add(lambda n, p: linear(f"{n}.Conv_0", p, layout=CONV), here)
                continue
            modules.add(_block, here, step, module.style, shortcut="NIN_0")
            if step.attends:
                modules.add(_attention, here)
    modules.add(norm, "out_norm")
    modules.add(linear, "out_conv", layout=CONV)
    return tuple(modules.entries)


def song_unet_tensors(module: SongUNet, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Entries of score_sde's `ncsnpp`; () for a network with conditions."""
    if module.num_classes or module.vector_dims or module.augment_dims:
        return ()
    style, steps = module.style, module.plan(shape[0])
    full = f"{shape[0]}x{shape[0]}"
    modules = _Numbered(shape)
    if module.embedding == "fourier":
        modules.add(
            lambda name: [Tensor(f"{name}.W", ("map_noise", "freqs"), frozen=True)]
        )
    modules.add(linear, "map_layer0")
    modules.add(linear, "map_layer1")
    modules.add(linear, f"enc_{full}_conv", layout=CONV)
    for part, blocks in (("enc", steps.encoder), ("dec", steps.decoder)):
        for step in blocks:
            here, at = f"{part}_{step.name}", step.name.split("_")[0]
            if module.block == "biggan":
                modules.add(_block, here, step, style, shortcut="Conv_2")
            elif step.resample:
                modules.add(lambda name: [])  # a filter
            else:
                modules.add(_block, here, step, style, shortcut="NIN_0")
            if step.attends:
                modules.add(_attention, here)
            if part == "enc" and step.resample and module.progressive_input != "none":
                modules.add(_pyramid, f"enc_{at}_aux", module.progressive_input)
            ends = part == "dec" and module.ends_level(step)
            if ends and (at == full or module.progressive != "none"):
                modules.add(norm, f"dec_{at}_aux_norm")
                modules.add(linear, f"dec_{at}_aux_conv", layout=CONV)
    return tuple(modules.entries)


def _pyramid(there: str, here: str, kind: str) -> list[Tensor]:
    """Entries of the layer that brings the image into a level."""
    if kind == "input_skip":
        return linear(f"{there}.Conv_0", f"{here}_skip", layout=POINTWISE)
    name = "Conv2d_0" if kind == "residual" else "Conv_0"
    return linear(f"{there}.{name}", f"{here}_residual", layout=CONV)


class _Numbered:
    """Entries of a network of score_sde, whose modules are one numbered list."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.entries = [_levels(shape)]
        self.count = 0

    def add(
        self, make: Callable[..., list[Tensor]], *args: Any, **options: Any
    ) -> None:
        """Add the next module: make(name, *args, **options) gives its entries."""
        self.entries += make(f"all_modules.{self.count}", *args, **options)
        self.count += 1


def _levels(shape: tuple[int, ...]) -> Tensor:
    """The table of noise levels that score_sde's networks carry, largest first.

    Some of them divide by it, which is part of the preconditioning here, so that a file
    may have any other: its configurations for large images differ in the largest.
    """
    largest, number = (50, 1000) if shape[0] < 256 else (348, 2000)
    levels = np.exp(np.linspace(np.log(largest), np.log(0.01), number))
    return Tensor("sigmas", (), value=levels, unused=True)


def _block(
    there: str, here: str, step: PlannedBlock, style: Style, *, shortcut: str
) -> list[Tensor]:
    """Entries of a block whose shortcut has this name, without its attention."""
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


def _attention(there: str, here: str) -> list[Tensor]:
    """Entries of attention, with a matrix for each of queries, keys and values."""
    entries = norm(f"{there}.GroupNorm_0", here, "norm2")
    for i in range(3):
        entries += _nin(f"{there}.NIN_{i}", here, "qkv", part=(i, 3))
    return entries + _nin(f"{there}.NIN_3", here, "proj")


def _nin(name: str, *path: str, part: tuple[int, int] | None = None) -> list[Tensor]:
    """Entries of a linear map that is stored as it is here."""
    return [
        Tensor(f"{name}.W", (*path, "kernel"), part=part),
        Tensor(f"{name}.b", (*path, "bias"), part=part),
    ]
