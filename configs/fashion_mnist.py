"""Fashion-MNIST: 60,000 and 10,000 pictures of clothes, 28x28, 256 grey levels.

    apt install dataset-fashion-mnist
    score-sde train --config=fashion_mnist --workdir=runs/fashion
    score-sde likelihood --workdir=runs/fashion

The data are four idx files, read as they are: Debian and Ubuntu have them in a package;
from elsewhere, name their folder by --config.data.folder. The same pictures from
TensorFlow Datasets: --config.data.name=fashion_mnist, and `score-sde prepare-data`
before. Pictures are not mirrored: all shoes point to the left.

    score-sde train --config=fashion_mnist:vdm --workdir=runs/fashion_vdm
    score-sde train --config=fashion_mnist:kl --workdir=runs/fashion_kl
    score-sde encode --workdir=runs/fashion_kl
    score-sde train --config=fashion_mnist:latent --workdir=runs/fashion_latent
"""

from collections.abc import Callable

from ml_collections import ConfigDict, FieldReference


def get_config(variant: str = "") -> ConfigDict:
    """The config, a section per object, of the default run or of a variant."""
    if variant and variant not in VARIANTS:
        raise ValueError(f"{variant!r} is no variant; choose from {sorted(VARIANTS)}.")
    config = default()
    if variant:
        VARIANTS[variant](config)
    return config.lock()


def default() -> ConfigDict:
    """The config of the default run."""
    num_steps = FieldReference(8_000)
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "idx",
                "folder": "/usr/share/datasets/fashion-mnist",
                "shape": (28, 28, 1),
                "num_classes": 10,
                "batch_size": 64,
                "sigma_data": 0.71,
            },
            "sde": {"name": "edm", "t_min": 0.002, "t_max": 80.0},
            "conditions": {},
            "network": {
                "name": "unet",
                "channels": 32,
                "multipliers": (1, 2, 2),
                "blocks_per_level": 1,
                "attention_resolutions": (7,),
                "dropout": 0.05,
                "input_frequencies": (),
            },
            "precondition": {"name": "edm"},
            "noise_levels": {
                "name": "log_normal",
                "mean": -1.2,
                "std": 1.4,
                "stratified": True,
            },
            "weight": {"name": "edm"},
            "objective": {"name": "denoising"},
            "optimizer": {
                "method": "muon",
                "learning_rate": 0.02,
                "adam_learning_rate": 3e-3,
                "b2": 0.99,
                "warmup_steps": num_steps // 50,
                "schedule": "cosine",
            },
            "train": {
                "num_steps": num_steps,
                "ema_halflife_steps": 300.0,
                "log_every": 50,
                "sample_every": (num_steps + 3) // 4,
                "checkpoint_every": 500,
            },
            "sampler": {"name": "heun"},
            "grid": {"name": "karras", "num_steps": 18},
            "sampling": {"num_samples": 1_000, "batch_size": 100},
            "likelihood": {"rtol": 1e-3, "atol": 1e-3, "batch_size": 50},
            "features": {"name": "classifier"},
            "metrics": {"frechet_distance": {}, "class_statistics": {}},
        }
    )


def vdm(config: ConfigDict) -> None:
    """Train by the variational bound with a learned noise schedule.

    On the centres of the levels (Kingma et al. 2021); a bin is six sigma wide at t_min.
    """
    config.data.points = "centres"
    config.sde.t_min = 0.0013
    # One period per two grey levels, and per one, in what the network sees.
    config.network.input_frequencies = (90.88, 181.76)
    config.network.dropout = 0.0
    config.noise_levels = {"name": "learned", "stratified": True}
    config.weight = {"name": "noise"}
    config.likelihood.dequantisation = "truncated_normal"


def kl(config: ConfigDict) -> None:
    """Make an autoencoder of 7x7 latents, 16 times fewer positions.

    score-sde encode --workdir=runs/fashion_kl

    The architecture of Rombach et al. 2022 at f4, small; features of a classifier that
    is trained on the training split in place of LPIPS, whose network wants larger
    images.
    """
    config.data.points = "centres"
    config.network = {
        "name": "kl_autoencoder",
        "latent_channels": 3,
        "channels": 32,
        "multipliers": (1, 2, 2),
        "blocks_per_level": 1,
        "groups": 8,
        "kl_weight": 1e-3,
    }
    config.objective = {
        "name": "autoencoder",
        "perceptual": "classifier",
        "perceptual_weight": 0.1,
        "discriminator": "hinge",
        "discriminator_weight": 0.2,
        "discriminator_channels": 32,
        "discriminator_layers": 2,
        "discriminator_learning_rate": 5e-4,
        "adversarial_start": 5_000,
        "adversarial_ramp": 5_000,
    }
    del config.weight
    del config.noise_levels
    config.optimizer = {
        "learning_rate": 5e-4,
        "b1": 0.5,
        "b2": 0.9,
        "schedule": "cosine",
        "warmup_steps": 100,
    }
    config.train.num_steps = 30_000


def latent(config: ConfigDict) -> None:
    """Train a diffusion in the 7x7 latents of the run `fashion_kl`.

    An evaluation costs a sixth of the default network's: 48 MFLOP for 294.
    """
    config.data = {
        "name": "latents",
        "path": "runs/fashion_kl/latents",
        "batch_size": 64,
        "sigma_data": 1.0,
    }
    config.companions = {"autoencoder": {"run": "runs/fashion_kl"}}
    config.network = {
        "name": "unet",
        "channels": 64,
        "multipliers": (1,),
        "blocks_per_level": 1,
        "attention_resolutions": (7,),
        "dropout": 0.05,
    }
    config.noise_levels.mean = -0.6


VARIANTS: dict[str, Callable[[ConfigDict], None]] = {
    "vdm": vdm,
    "kl": kl,
    "latent": latent,
}
"""What may stand behind the colon -> what it changes."""
