"""The configurations whose weights are published, and what they were trained as.

Facts of the papers and their programs; `tensors` of the network files says how their
weight files are laid out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from score_sde.networks import adm, ddpm, dit, edm2, song_unet
from score_sde.networks.publication import Published as Published
from score_sde.networks.published_unets import edm, openai, score_sde
from score_sde.networks.song_flax import flax_tensors
from score_sde.networks.tensors import Tensor, own_tensors


def _edm2() -> dict[str, Published]:
    """Karras et al. 2024, its program's presets; of ImageNet, in pixels or latents."""
    widths = dict(xxs=64, xs=128, s=192, m=256, l=320, xl=384, xxl=448)
    made = {}
    for size, channels in widths.items():
        dropout = 0.0 if channels < 256 else 0.1
        kinds = [("img512", 4, 1000, "")]
        if size not in ("xxs", "xxl"):
            kinds.append(("img64", 3, 1000, ""))
        if size in ("xxs", "xs", "s"):
            kinds.append(("img512", 4, 0, "-uncond"))
        for data, depth, num_classes, end in kinds:
            name = f"edm2-{data}-{size}{end}"
            options = dict(channels=channels, num_classes=num_classes, dropout=dropout)
            levels = 256 if data == "img64" else 0
            made[f"edm2/{name}"] = Published(
                "edm2",
                options,
                (64, 64, depth),
                "edm",
                0.002,
                80.0,
                num_levels=levels,
                # Of the smallest only the settings of its training are known.
                file="" if size == "xxs" else f"{name}-*.pkl",
            )
    return made


def _dit() -> dict[str, Published]:
    """Peebles and Xie 2023, table 1; latents, the linear chain of 1,000 steps."""
    sizes = {
        "S": dict(hidden_size=384, depth=12, num_heads=6),
        "B": dict(hidden_size=768, depth=12, num_heads=12),
        "L": dict(hidden_size=1024, depth=24, num_heads=16),
        "XL": dict(hidden_size=1152, depth=28, num_heads=16),
    }
    released = {
        "DiT-XL-2-256px": "DiT-XL-2-256x256.pt",
        "DiT-XL-2-512px": "DiT-XL-2-512x512.pt",
    }
    kinds = [(size, p, 256) for size in sizes for p in (2, 4, 8)] + [("XL", 2, 512)]
    made = {}
    for size, patch_size, side in kinds:
        name = f"DiT-{size}-{patch_size}-{side}px"
        options = dict(sizes[size], patch_size=patch_size, num_classes=1000)
        made[f"dit/{name}"] = Published(
            "dit",
            options,
            (side // 8, side // 8, 4),
            "chain",
            0.01,
            157.4,
            num_levels=0,
            file=released.get(name, ""),
        )
    return made


PUBLISHED: dict[str, Published] = {
    **score_sde(),
    **edm(),
    **openai(),
    **_edm2(),
    **_dit(),
}

TENSORS: dict[str, dict[str, Callable[..., tuple[Tensor, ...]]]] = {
    "ddpm": {
        "score_sde_pytorch": ddpm.tensors,
        "score_sde_flax": lambda module, shape: flax_tensors(
            ddpm.tensors(module, shape), block="ResnetBlockDDPM"
        ),
    },
    "song_unet": {
        "edm": song_unet.edm_tensors,
        "score_sde_pytorch": song_unet.song_tensors,
        "score_sde_flax": lambda module, shape: flax_tensors(
            song_unet.song_tensors(module, shape), block="ResnetBlockBigGANpp"
        ),
    },
    "adm": {"guided_diffusion": adm.guided_tensors, "edm": adm.edm_tensors},
    "edm2": {"edm2": edm2.tensors},
    "dit": {"dit": dit.tensors},
}
"""Network -> program -> the names and layouts of that program's files."""


def tables(
    network: str, module: Any, shape: tuple[int, ...], params: Any
) -> dict[str, tuple[Tensor, ...]]:
    """All that files of this network may be named like; "here" is our own way."""
    published = {
        program: make(module, shape)
        for program, make in TENSORS.get(network, {}).items()
    }
    published = {program: table for program, table in published.items() if table}
    return {**published, "here": own_tensors(params)}
