"""CIFAR-10 by the variational bound: variational diffusion models (Kingma et al. 2021).

    score-sde train --config=cifar10_vdm --workdir=runs/vdm

Published: 2.65 bits/dim without augmentation, after 10 million steps; FID 7.41. Its
program was tested on a TPU v3-8. A network of the same depth and width, 32 blocks each
way at full resolution, which sees its input as waves too; not equal to theirs, which
has attention in the middle. log SNR falls linearly from 13.3 to -5; the paper learns
its ends too, from there.

Variants are the stages of a cascade over wavelets:

    score-sde train --config=cifar10_vdm:coarse --workdir=runs/cifar_coarse
    score-sde train --config=cifar10_vdm:details --workdir=runs/cifar_details
    score-sde likelihood --workdir=runs/cifar_details
        --config.companions.low_resolution.run=runs/cifar_coarse

The idea of Li et al. 2025 (arXiv 2501.06999), who publish 2.35 bits/dim, the lowest
known: an orthonormal wavelet, and a variational diffusion model for each of its parts.
Not their settings, of which the number of stages and the sizes of networks are not
known to us: network, rates and ends of the noise are those of the default run.
"""

from ml_collections import ConfigDict

# sigma^2 = 1 / SNR.
SIGMA_MIN, SIGMA_MAX = 0.001294, 12.18


def get_config(variant: str = "") -> ConfigDict:
    """The config of images, or of a part of them: 'coarse' or 'details'."""
    if variant not in ("", "coarse", "details"):
        raise ValueError(f"{variant!r} is no variant; choose 'coarse' or 'details'.")
    config = default()
    if variant:
        of_part(config, variant)
    return config.lock()


def of_part(config: ConfigDict, part: str) -> None:
    """Change the default run to one on a part of the wavelets of images."""
    config.data.update(
        name="wavelet",
        source={"name": "cifar10"},
        part=part,
        sigma_data=0.5 if part == "coarse" else 0.1,
    )
    if part == "coarse":
        # Of the same noise of the pixels: half as much in means of four.
        config.sde.t_min = SIGMA_MIN / 2
        # One period per grey level of a pixel, and per level of a mean.
        config.network.input_frequencies = (256.0, 1024.0)
    if part == "details":
        config.conditions = {"coarse": {}}


def default() -> ConfigDict:
    """The config, a section per object."""
    return ConfigDict(
        {
            "seed": 1,
            "data": {
                "name": "cifar10",
                "batch_size": 128,
                "points": "centres",
                "sigma_data": 0.5,
            },
            "sde": {"name": "edm", "t_min": SIGMA_MIN, "t_max": SIGMA_MAX},
            "network": {
                "name": "unet",
                "channels": 128,
                "multipliers": (1,),
                "blocks_per_level": 32,
                "dropout": 0.1,
                # One period per two grey levels, and per one.
                "input_frequencies": (128.0, 256.0),
            },
            "precondition": {"name": "noise"},
            "noise_levels": {"name": "likelihood_importance", "stratified": True},
            "weight": {"name": "noise"},
            "optimizer": {
                "learning_rate": 2e-4,
                "b2": 0.99,
                "weight_decay": 0.01,
                "warmup_steps": 100,
                "clip_norm": float("inf"),
            },
            "train": {
                "num_steps": 10_000_000,
                # A decay of 0.9999 from the first step on.
                "ema_halflife_steps": 6931.1,
                "ema_rampup_ratio": float("inf"),
                "log_every": 1000,
                "sample_every": 50_000,
                "checkpoint_every": 10_000,
            },
            "sampler": {"name": "ddpm"},
            "grid": {"name": "log_snr", "num_steps": 1000},
            "sampling": {"num_samples": 50_000, "batch_size": 256},
            "likelihood": {"dequantisation": "truncated_normal", "batch_size": 64},
        }
    )
