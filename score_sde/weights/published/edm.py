"""EDM: its published configurations and the tensors of its files (Karras 2022)."""

from __future__ import annotations

from typing import Any

import numpy as np

from score_sde.networks import ADM, SongUNet
from score_sde.networks.resampling import Taps, normalised
from score_sde.networks.unet_blocks import Style
from score_sde.networks.unet_plan import PlannedBlock
from score_sde.schedules import iddpm_levels
from score_sde.weights.published.publication import (
    COSINE_CHAIN_LEVELS,
    EDM_LEVELS,
    VP_LEVELS,
    Published,
    published,
)
from score_sde.weights.published.tensors import (
    CONV,
    POINTWISE,
    Layout,
    Tensor,
    linear,
    matrix,
    norm,
    out,
)

_VP: dict[str, Any] = dict(precondition="vp", levels=VP_LEVELS)
_VE: dict[str, Any] = dict(precondition="ve", levels=(0.02, 100.0))
_EDM: dict[str, Any] = dict(precondition="edm", levels=EDM_LEVELS)


def configurations() -> dict[str, Published]:
    """Configurations of Karras et al. 2022, by the flags of its program.

    Released are those with augmentation, and the baselines.
    """
    ddpmpp: dict[str, Any] = dict(embedding="positional")
    ncsnpp: dict[str, Any] = dict(
        embedding="fourier",
        resample_filter=(1, 3, 3, 1),
        progressive_input="residual",
    )
    made = {
        **_of_architecture("ddpmpp", ddpmpp, "vp", _VP),
        **_of_architecture("ncsnpp", ncsnpp, "ve", _VE),
        **_imagenet(),
    }
    return {f"edm/{name}": configuration for name, configuration in made.items()}


def _of_architecture(
    arch: str, options: dict[str, Any], short: str, baseline: dict[str, Any]
) -> dict[str, Published]:
    """Configurations of small images for one of the architectures of Song et al.

    Args:
        arch: its name in names of configurations.
        options: its options.
        short: its name in the names of files.
        baseline: the preconditioning of the same network before EDM.
    """
    cifar: dict[str, Any] = dict(multipliers=(2, 2, 2), dropout=0.13)
    small, made = (32, 32, 3), {}
    for kind, num_classes in (("uncond", 0), ("cond", 10)):
        name = f"cifar10-32x32-{kind}"
        plain = options | cifar | dict(num_classes=num_classes)
        made[f"{name}-{arch}"] = published(
            "song_unet",
            plain | dict(augment_dims=9),
            shape=small,
            file=f"edm-{name}-{short}.pkl",
            **_EDM,
        )
        made[f"{name}-{arch}-noaugment"] = published(
            "song_unet", plain, shape=small, **_EDM
        )
    for data, dropout in (("ffhq", 0.05), ("afhqv2", 0.25)):
        made[f"{data}-64x64-uncond-{arch}"] = published(
            "song_unet",
            options | dict(dropout=dropout, augment_dims=9),
            shape=(64, 64, 3),
            file=f"edm-{data}-64x64-uncond-{short}.pkl",
            **_EDM,
        )
    made[f"cifar10-32x32-cond-{arch}-{short}precond"] = published(
        "song_unet",
        options | cifar | dict(num_classes=10, augment_dims=9),
        shape=small,
        **baseline,
    )
    made[f"baseline-cifar10-32x32-uncond-{short}"] = published(
        "song_unet",
        options | dict(dropout=0.1),
        shape=small,
        file=f"baseline-cifar10-32x32-uncond-{short}.pkl",
        **baseline,
    )
    return made


def _imagenet() -> dict[str, Published]:
    """Configurations of ADM for ImageNet, trained by EDM and before it."""
    options: dict[str, Any] = dict(num_classes=1000, dropout=0.1)
    trained = published(
        "adm",
        options,
        shape=(64, 64, 3),
        file="edm-imagenet-64x64-cond-adm.pkl",
        **_EDM,
    )
    baseline = published(
        "adm",
        options | dict(learn_sigma=True),
        shape=(64, 64, 3),
        precondition="iddpm",
        levels=COSINE_CHAIN_LEVELS,
        file="baseline-imagenet-64x64-cond-adm.pkl",
    )
    return {
        "imagenet-64x64-cond-adm": trained,
        "baseline-imagenet-64x64-cond-adm": baseline,
    }


def song_unet_tensors(module: SongUNet, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Entries of NVlabs/edm's SongUNet in its preconditioner; () if it has no such."""
    others = module.block == "ddpm" or module.progressive_combine == "cat"
    strided = module.progressive_input == "strided_residual"
    if module.vector_dims or strided or others:
        return ()
    style, taps = module.style, module.resample_filter
    steps = module.plan(shape[0])
    full = f"{shape[0]}x{shape[0]}"
    entries: list[Tensor] = []
    if module.embedding == "fourier":
        path = ("map_noise", "freqs")
        entries.append(Tensor("model.map_noise.freqs", path, frozen=True))
    if module.num_classes:
        entries += linear("model.map_label", "map_label")
    if module.augment_dims:
        entries.append(matrix("model.map_augment", "map_augment"))
    entries += linear("model.map_layer0", "map_layer0")
    entries += linear("model.map_layer1", "map_layer1")
    entries += linear(f"model.enc.{full}_conv", f"enc_{full}_conv", layout=CONV)
    for step in steps.encoder:
        there, here = f"model.enc.{step.name}", f"enc_{step.name}"
        entries += block(there, here, step, style, 1)
        if step.resample:
            there, here = (a.removesuffix("down") + "aux" for a in (there, here))
            if module.progressive_input == "residual":
                name = f"{there}_residual"
                entries += linear(name, f"{here}_residual", layout=CONV)
                entries.append(filter_of(name, taps))
            elif module.progressive_input == "input_skip":
                entries.append(filter_of(f"{there}_down", taps))
                name = f"{there}_skip"
                entries += linear(name, f"{here}_skip", layout=POINTWISE)
    lowest = steps.decoder[0].name
    for step in steps.decoder:
        there, here = f"model.dec.{step.name}", f"dec_{step.name}"
        entries += block(there, here, step, style, 1)
        at = step.name.split("_")[0]
        if module.ends_level(step) and (at == full or module.progressive != "none"):
            aux = f"model.dec.{at}_aux"
            if module.progressive != "none" and not lowest.startswith(f"{at}_"):
                entries.append(filter_of(f"{aux}_up", taps))
            entries += out(f"{aux}_norm", f"{aux}_conv", prefix=f"dec_{at}_aux")
    return tuple(entries)


def adm_tensors(module: ADM, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Entries of NVlabs/edm's DhariwalUNet, preconditioned; () if it has no such."""
    if module.vector_dims or not module.resblock_updown:
        return ()
    steps = module.plan(shape[0])
    full = f"{shape[0]}x{shape[0]}"
    entries: list[Tensor] = []
    if module.learn_sigma:  # its preconditioner is that of a discrete chain
        levels = iddpm_levels(1000, 0.001, 0.008).astype(np.float32)
        entries.append(Tensor("u", (), value=levels))
    if module.augment_dims:
        entries.append(matrix("model.map_augment", "map_augment"))
    entries += linear("model.map_layer0", "map_layer0")
    entries += linear("model.map_layer1", "map_layer1")
    if module.num_classes:
        entries.append(matrix("model.map_label", "map_label"))
    entries += linear(f"model.enc.{full}_conv", "in_conv", layout=CONV)
    for part, blocks in (("enc", steps.encoder), ("dec", steps.decoder)):
        for step in blocks:
            there, here = f"model.{part}.{step.name}", f"{part}_{step.name}"
            heads = module.heads(step.width, up=step.joins)
            entries += block(there, here, step, module.style, heads)
    entries += out("model.out_norm", "model.out_conv")
    return tuple(entries)


def block(
    there: str, here: str, step: PlannedBlock, style: Style, num_heads: int
) -> list[Tensor]:
    """Entries of a block of NVlabs/edm, attention included."""
    filters = [style.resample_filter] if step.resample else []
    entries = [
        *norm(f"{there}.norm0", here, "norm0"),
        *linear(f"{there}.conv0", here, "conv0", layout=CONV),
        *(filter_of(f"{there}.conv0", taps) for taps in filters),
        *linear(f"{there}.affine", here, "affine"),
        *norm(f"{there}.norm1", here, "norm1"),
        *linear(f"{there}.conv1", here, "conv1", layout=CONV),
    ]
    if style.projects(step.reads, step.width, step.resample):
        entries += linear(f"{there}.skip", here, "skip", layout=POINTWISE)
    entries += [filter_of(f"{there}.skip", taps) for taps in filters]
    if step.attends:
        split = (num_heads, step.width // num_heads, 3)
        entries += norm(f"{there}.norm2", here, "norm2")
        entries += _qkv(f"{there}.qkv", here, split, by_head=style.by_head)
        entries += linear(f"{there}.proj", here, "proj", layout=POINTWISE)
    return entries


def filter_of(name: str, taps: Taps) -> Tensor:
    """A resampling filter, which EDM keeps in every layer that resamples."""
    return Tensor(f"{name}.resample_filter", (), value=filter_matrix(taps))


def filter_matrix(taps: Taps) -> np.ndarray:
    """The resampling filter as published programs store it: float32 [1, 1, L, L]."""
    weights = normalised(taps)
    return np.outer(weights, weights)[None, None].astype(np.float32)


def _qkv(
    name: str, here: str, split: tuple[int, int, int], *, by_head: bool
) -> list[Tensor]:
    """Entries of the map to queries, keys and values, in the order of channels here.

    Args:
        name: of the map there.
        here: name of the block here.
        split: of the channels there: head, channel of the head, which of the three.
        by_head: whether the three of a head follow each other here.
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
    """Split the last axis in three, and put the three in another order."""
    lead = a.ndim - 1
    order = (*range(lead), *(lead + axis for axis in axes))
    return a.reshape(*a.shape[:-1], *split).transpose(order).reshape(a.shape)
