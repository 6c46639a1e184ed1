"""guided-diffusion and improved-diffusion: configurations and tensors of their files.

Dhariwal and Nichol 2021; Nichol and Dhariwal 2021.
"""

from __future__ import annotations

from typing import Any

from score_sde.networks import ADM, ADMClassifier
from score_sde.networks.unet_blocks import Style
from score_sde.networks.unet_plan import PlannedBlock
from score_sde.weights.published.publication import (
    COSINE_CHAIN_LEVELS,
    LINEAR_CHAIN_LEVELS,
    LONG_COSINE_CHAIN_LEVELS,
    Published,
    published,
)
from score_sde.weights.published.tensors import (
    CONV,
    POINTWISE,
    POINTWISE_1D,
    Tensor,
    linear,
    norm,
    out,
)

_LINEAR: dict[str, Any] = dict(precondition="chain", levels=LINEAR_CHAIN_LEVELS)
_UPSAMPLER: dict[str, Any] = _LINEAR | dict(factor=4)
_CLASSES: dict[str, Any] = dict(num_classes=1000)
_BOTH: dict[str, Any] = dict(
    min_group=1, learn_sigma=True, use_new_attention_order=False
)
"""Options of the networks of both programs."""

_Kinds = dict[str, tuple[int, dict[str, Any], dict[str, Any]]]
"""Name -> (side of the images, options, preconditioning)."""


def configurations() -> dict[str, Published]:
    """Configurations by the flags that both programs give for their files.

    See also Dhariwal and Nichol 2021, table 11.
    """
    # The name stands for two runs, 1200K_bs128 and 2400K_bs64.
    files = {"improved-diffusion/lsun_uncond_100M": "lsun_uncond_100M_*.pt"}
    made = {}
    for name, (side, options, process) in (_guided() | _improved()).items():
        file = files.get(name, f"{name.partition('/')[2]}.pt")
        made[name] = published(
            "adm", options, shape=(side, side, 3), file=file, **process
        )
    return made


def _guided() -> _Kinds:
    """Kinds of networks of guided-diffusion."""
    cosine: dict[str, Any] = dict(precondition="iddpm", levels=COSINE_CHAIN_LEVELS)
    large = _BOTH | dict(channels=256, blocks_per_level=2)
    at_256 = large | dict(multipliers=(1, 1, 2, 2, 4, 4))
    lsun = at_256 | dict(dropout=0.1)
    at_64 = _BOTH | _CLASSES | dict(use_new_attention_order=True, dropout=0.1)
    at_128 = dict(multipliers=(1, 1, 2, 3, 4), channels_per_head=0, num_heads=4)
    at_512 = dict(multipliers=(0.5, 1, 1, 2, 2, 4, 4))
    up = _BOTH | _CLASSES | dict(channels=192, blocks_per_level=2)
    up |= dict(multipliers=(1, 1, 2, 2, 4, 4))
    up_to_256 = dict(channels_per_head=0, num_heads=4)
    kinds: _Kinds = {
        "64x64_diffusion": (64, at_64, cosine),
        "128x128_diffusion": (128, large | _CLASSES | at_128, _LINEAR),
        "256x256_diffusion": (256, at_256 | _CLASSES, _LINEAR),
        "256x256_diffusion_uncond": (256, at_256, _LINEAR),
        "512x512_diffusion": (512, large | _CLASSES | at_512, _LINEAR),
        "64_256_upsampler": (256, up | up_to_256, _UPSAMPLER),
        "128_512_upsampler": (
            512,
            up | dict(attention_resolutions=(32, 16)),
            _UPSAMPLER,
        ),
        "lsun_bedroom": (256, lsun, _LINEAR),
        "lsun_cat": (256, lsun, _LINEAR),
        "lsun_horse": (256, lsun, _LINEAR),
        "lsun_horse_nodropout": (256, at_256, _LINEAR),
    }
    return {f"guided-diffusion/{name}": kind for name, kind in kinds.items()}


def _improved() -> _Kinds:
    """Kinds of networks of improved-diffusion.

    Those on the cosine chain know 4,000 steps. They were told them as if there were
    1,000, but for the one with classes, which was told them as they are.
    """
    chain: dict[str, Any] = dict(beta_schedule="cosine", num_train_timesteps=4000)
    long: dict[str, Any] = dict(
        precondition="chain",
        levels=LONG_COSINE_CHAIN_LEVELS,
        precondition_options=chain,
    )
    rescaled = long | dict(precondition_options=chain | dict(timestep_scale=0.25))
    improved = _BOTH | dict(
        channels=128,
        attention_resolutions=(16, 8),
        channels_per_head=0,
        num_heads=4,
        resblock_updown=False,
    )
    cifar = improved | dict(multipliers=(1, 2, 2, 2), dropout=0.3)
    lsun = improved | dict(
        multipliers=(1, 1, 2, 2, 4, 4),
        blocks_per_level=2,
        attention_resolutions=(16,),
        num_heads=1,
        scale_shift=False,
    )
    with_classes = improved | _CLASSES | dict(channels=192)
    kinds: _Kinds = {
        "cifar10_uncond_50M_500K": (32, cifar, rescaled),
        "cifar10_uncond_vlb_50M_500K": (32, cifar, rescaled),
        "imagenet64_uncond_100M_1500K": (64, improved, rescaled),
        "imagenet64_uncond_vlb_100M_1500K": (64, improved, rescaled),
        "imagenet64_cond_270M_250K": (64, with_classes, long),
        "lsun_uncond_100M": (256, lsun, _LINEAR),
    }
    return {f"improved-diffusion/{name}": kind for name, kind in kinds.items()}


def adm_tensors(module: ADM, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Entries of the U-Net of both programs; () if they have no such network."""
    if module.vector_dims or module.augment_dims:
        return ()
    steps = module.plan(shape[0])
    entries = linear("time_embed.0", "map_layer0")
    entries += linear("time_embed.2", "map_layer1")
    if module.num_classes:
        entries.append(Tensor("label_emb.weight", ("map_label", "kernel")))
    entries += linear("input_blocks.0.0", "in_conv", layout=CONV)

    def block(
        there: str, part: str, step: PlannedBlock, place: int = 0
    ) -> list[Tensor]:
        """The layers of a step, which are numbered from `place` on."""
        here = f"{part}_{step.name}"
        if step.resample and not module.resblock_updown:
            layer = "op" if step.resample == "down" else "conv"
            return linear(f"{there}.{place}.{layer}", here, layout=CONV)
        made = _block(f"{there}.{place}", here, step, module.style)
        if step.attends:
            made += _attention(f"{there}.{place + 1}", here)
        return made

    for i, step in enumerate(steps.encoder):
        entries += block(f"input_blocks.{i + 1}", "enc", step)
    entries += block("middle_block", "dec", steps.decoder[0])
    entries += block("middle_block", "dec", steps.decoder[1], place=2)
    number, place = -1, 0
    for step in steps.decoder[2:]:
        # A layer that doubles is the last one of the block before it.
        number, place = (number, place) if step.resample else (number + 1, 0)
        entries += block(f"output_blocks.{number}", "dec", step, place)
        place += 2 if step.attends else 1
    return (*entries, *out("out.0", "out.2"))


def classifier_tensors(
    module: ADMClassifier, shape: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """Entries of guided-diffusion's classifier, in the old order of attention."""
    adm: Any = module.adm
    entries = linear("time_embed.0", "map_layer0")
    entries += linear("time_embed.2", "map_layer1")
    entries += linear("input_blocks.0.0", "in_conv", layout=CONV)
    for number, (here, step) in enumerate(module.steps(shape[0]).items(), 1):
        there = f"input_blocks.{number}.0"
        attention = f"input_blocks.{number}.1"
        if here.startswith("dec_"):
            place = 0 if step.attends else 2
            there, attention = f"middle_block.{place}", "middle_block.1"
        entries += _block(there, here, step, adm.style)
        if step.attends:
            entries += _attention(attention, here)
    pool = "out_pool"
    return (
        *entries,
        *norm("out.0", "out_norm"),
        Tensor("out.2.positional_embedding", (pool, "positional_embedding")),
        *linear("out.2.qkv_proj", pool, "qkv_proj", layout=POINTWISE_1D),
        *linear("out.2.c_proj", pool, "c_proj", layout=POINTWISE_1D),
    )


def _block(there: str, here: str, step: PlannedBlock, style: Style) -> list[Tensor]:
    """Entries of a block of openai/guided-diffusion, without its attention."""
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


def _attention(there: str, here: str) -> list[Tensor]:
    """Entries of attention; its order of channels is an option of the network here."""
    return [
        *norm(f"{there}.norm", here, "norm2"),
        *linear(f"{there}.qkv", here, "qkv", layout=POINTWISE_1D),
        *linear(f"{there}.proj_out", here, "proj", layout=POINTWISE_1D),
    ]
