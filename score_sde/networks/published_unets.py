"""The published configurations of score_sde, EDM and the two programs of OpenAI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from score_sde.networks.publication import NO_OPTIONS, Published

# Images are in [-1, 1] here; in score_sde, those of the VE process are in [0, 1], so
# that its noise levels are half of these.
VP_LEVELS = (1.0005e-3, 152.16)
SUBVP_LEVELS = (1.001e-6, 152.16)
LINEAR_CHAIN_LEVELS = (0.01, 157.4)
COSINE_CHAIN_LEVELS = (0.0064, 20291.0)
LONG_COSINE_CHAIN_LEVELS = (0.0031, 81165.0)
EDM_LEVELS = (0.002, 80.0)


def score_sde() -> dict[str, Published]:
    """Song et al. 2021, app. H; the configurations of its program."""
    cifar: dict[str, Any] = dict(shape=(32, 32, 3), file="checkpoint_*.pth")
    vp = dict(precondition="vp", levels=VP_LEVELS)
    subvp = dict(precondition="subvp", levels=SUBVP_LEVELS)
    ve = dict(precondition="ve", levels=(0.02, 100.0))
    chain = dict(precondition="chain", levels=LINEAR_CHAIN_LEVELS)
    ladder = dict(precondition="ve_ladder", levels=(0.02, 100.0))
    fir: dict[str, Any] = dict(resample_filter=(1, 3, 3, 1))
    ncsnpp = fir | dict(progressive_input="residual")
    fourier = ncsnpp | dict(embedding="fourier")
    deep = dict(blocks_per_level=8)
    large = fir | dict(
        embedding="fourier",
        dropout=0.0,
        progressive_input="input_skip",
        progressive="output_skip",
    )
    at_256 = large | dict(multipliers=(1, 1, 2, 2, 2, 2, 2), blocks_per_level=2)
    at_1024 = large | dict(
        channels=16, multipliers=(1, 2, 4, 8, 16, 32, 32, 32), blocks_per_level=1
    )
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
    made = {
        f"score_sde/{name}": _published(network, options, **cifar, **process)
        for name, (network, options, process) in kinds.items()
    }
    for name, sigma_max, side in (
        ("celebahq_256", 348, 256),
        ("ffhq_256", 348, 256),
        ("church", 380, 256),
        ("bedroom", 378, 256),
        ("ffhq", 1348, 1024),
    ):
        made[f"score_sde/ve/{name}_ncsnpp_continuous"] = _published(
            "song_unet",
            at_256 if side == 256 else at_1024,
            shape=(side, side, 3),
            precondition="ve",
            levels=(0.02, 2.0 * sigma_max),
            file="checkpoint_*.pth",
        )
    return made


def edm() -> dict[str, Published]:
    """Karras et al. 2022, the flags of its program; released are the augmented."""
    ddpmpp: dict[str, Any] = dict(embedding="positional")
    ncsnpp: dict[str, Any] = dict(
        embedding="fourier",
        resample_filter=(1, 3, 3, 1),
        progressive_input="residual",
    )
    nets = {"ddpmpp": ddpmpp, "ncsnpp": ncsnpp}
    cifar: dict[str, Any] = dict(multipliers=(2, 2, 2), dropout=0.13)
    faces = {"ffhq": 0.05, "afhqv2": 0.25}
    how: dict[str, Any] = dict(precondition="edm", levels=EDM_LEVELS)
    vp: dict[str, Any] = dict(precondition="vp", levels=VP_LEVELS)
    ve: dict[str, Any] = dict(precondition="ve", levels=(0.02, 100.0))
    made = {}
    for arch, options in nets.items():
        short = "vp" if arch == "ddpmpp" else "ve"
        for kind, num_classes in (("uncond", 0), ("cond", 10)):
            name = f"cifar10-32x32-{kind}"
            plain = options | cifar | dict(num_classes=num_classes)
            made[f"{name}-{arch}"] = _published(
                "song_unet",
                plain | dict(augment_dims=9),
                shape=(32, 32, 3),
                file=f"edm-{name}-{short}.pkl",
                **how,
            )
            made[f"{name}-{arch}-noaugment"] = _published(
                "song_unet", plain, shape=(32, 32, 3), **how
            )
        for data, dropout in faces.items():
            made[f"{data}-64x64-uncond-{arch}"] = _published(
                "song_unet",
                options | dict(dropout=dropout, augment_dims=9),
                shape=(64, 64, 3),
                file=f"edm-{data}-64x64-uncond-{short}.pkl",
                **how,
            )
        made[f"cifar10-32x32-cond-{arch}-{short}precond"] = _published(
            "song_unet",
            options | cifar | dict(num_classes=10, augment_dims=9),
            shape=(32, 32, 3),
            **(vp if short == "vp" else ve),
        )
        made[f"baseline-cifar10-32x32-uncond-{short}"] = _published(
            "song_unet",
            options | dict(dropout=0.1),
            shape=(32, 32, 3),
            file=f"baseline-cifar10-32x32-uncond-{short}.pkl",
            **(vp if short == "vp" else ve),
        )
    imagenet: dict[str, Any] = dict(num_classes=1000, dropout=0.1)
    made["imagenet-64x64-cond-adm"] = _published(
        "adm",
        imagenet,
        shape=(64, 64, 3),
        file="edm-imagenet-64x64-cond-adm.pkl",
        **how,
    )
    made["baseline-imagenet-64x64-cond-adm"] = _published(
        "adm",
        imagenet | dict(learn_sigma=True),
        shape=(64, 64, 3),
        precondition="iddpm",
        levels=COSINE_CHAIN_LEVELS,
        file="baseline-imagenet-64x64-cond-adm.pkl",
    )
    return {f"edm/{name}": published for name, published in made.items()}


def openai() -> dict[str, Published]:
    """The flags that both programs give for their files; Dhariwal and Nichol, table 11.

    Those of improved-diffusion on the cosine chain know 4,000 steps, and were told them
    as if there were 1,000, but for the one with classes, which was told them as such.
    """
    linear: dict[str, Any] = dict(precondition="chain", levels=LINEAR_CHAIN_LEVELS)
    cosine: dict[str, Any] = dict(precondition="iddpm", levels=COSINE_CHAIN_LEVELS)
    chain: dict[str, Any] = dict(beta_schedule="cosine", num_train_timesteps=4000)
    long: dict[str, Any] = dict(
        precondition="chain",
        levels=LONG_COSINE_CHAIN_LEVELS,
        precondition_options=chain,
    )
    rescaled = long | dict(precondition_options=chain | dict(timestep_scale=0.25))
    both: dict[str, Any] = dict(
        min_group=1, learn_sigma=True, use_new_attention_order=False
    )
    guided: dict[str, Any] = both | dict(channels=256, blocks_per_level=2)
    at_256 = guided | dict(multipliers=(1, 1, 2, 2, 4, 4))
    lsun = at_256 | dict(dropout=0.1)
    improved: dict[str, Any] = both | dict(
        channels=128,
        attention_resolutions=(16, 8),
        channels_per_head=0,
        num_heads=4,
        resblock_updown=False,
    )
    cifar = improved | dict(multipliers=(1, 2, 2, 2), dropout=0.3)
    classes = dict(num_classes=1000)
    kinds: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
        "guided-diffusion/64x64_diffusion": (
            64,
            both | classes | dict(use_new_attention_order=True, dropout=0.1),
            cosine,
        ),
        "guided-diffusion/128x128_diffusion": (
            128,
            guided
            | classes
            | dict(multipliers=(1, 1, 2, 3, 4), channels_per_head=0, num_heads=4),
            linear,
        ),
        "guided-diffusion/256x256_diffusion": (256, at_256 | classes, linear),
        "guided-diffusion/256x256_diffusion_uncond": (256, at_256, linear),
        "guided-diffusion/512x512_diffusion": (
            512,
            guided | classes | dict(multipliers=(0.5, 1, 1, 2, 2, 4, 4)),
            linear,
        ),
        "guided-diffusion/lsun_bedroom": (256, lsun, linear),
        "guided-diffusion/lsun_cat": (256, lsun, linear),
        "guided-diffusion/lsun_horse": (256, lsun, linear),
        "guided-diffusion/lsun_horse_nodropout": (256, at_256, linear),
        "improved-diffusion/cifar10_uncond_50M_500K": (32, cifar, rescaled),
        "improved-diffusion/cifar10_uncond_vlb_50M_500K": (32, cifar, rescaled),
        "improved-diffusion/imagenet64_uncond_100M_1500K": (64, improved, rescaled),
        "improved-diffusion/imagenet64_uncond_vlb_100M_1500K": (64, improved, rescaled),
        "improved-diffusion/imagenet64_cond_270M_250K": (
            64,
            improved | classes | dict(channels=192),
            long,
        ),
        "improved-diffusion/lsun_uncond_100M": (
            256,
            improved
            | dict(
                multipliers=(1, 1, 2, 2, 4, 4),
                blocks_per_level=2,
                attention_resolutions=(16,),
                num_heads=1,
                scale_shift=False,
            ),
            linear,
        ),
    }
    # Of two runs, 1200K_bs128 and 2400K_bs64.
    files = {"improved-diffusion/lsun_uncond_100M": "lsun_uncond_100M_*.pt"}
    made = {}
    for name, (side, options, process) in kinds.items():
        file = files.get(name, f"{name.partition('/')[2]}.pt")
        made[name] = _published(
            "adm", options, shape=(side, side, 3), file=file, **process
        )
    return made


def _published(
    network: str,
    options: dict[str, Any],
    *,
    shape: tuple[int, ...],
    precondition: str,
    levels: tuple[float, float],
    file: str = "",
    precondition_options: Mapping[str, Any] = NO_OPTIONS,
) -> Published:
    return Published(
        network,
        options,
        shape,
        precondition,
        *levels,
        precondition_options=precondition_options,
        file=file,
    )
