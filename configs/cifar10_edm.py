"""CIFAR-10, unconditional: EDM on DDPM++ (Karras et al. 2022, config F, "VP").

    score-sde train --config=cifar10_edm --workdir=runs/edm

Published (table 2): FID 1.97 by 35 evaluations, the best of three draws; 55.7 million
parameters, 200 million images, about two days on eight V100.
"""

from ml_collections import ConfigDict

MILLION = 1_000_000
BATCH = 512


def get_config() -> ConfigDict:
    """The config, a section per object."""
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "cifar10",
                "batch_size": BATCH,
                "points": "centres",
                "sigma_data": 0.5,
            },
            "sde": {"name": "edm", "t_min": 0.002, "t_max": 80.0},
            "conditions": {"augment": {"probability": 0.12}},
            "network": {
                "name": "song_unet",
                "channels": 128,
                "multipliers": (2, 2, 2),
                "blocks_per_level": 4,
                "attention_resolutions": (16,),
                "dropout": 0.13,
                "embedding": "positional",
            },
            "precondition": {"name": "edm"},
            "noise_levels": {"name": "log_normal", "mean": -1.2, "std": 1.2},
            "weight": {"name": "edm"},
            "optimizer": {
                "learning_rate": 1e-3,
                "warmup_steps": 10 * MILLION // BATCH,
                "clip_norm": float("inf"),
            },
            "train": {
                "num_steps": 200 * MILLION // BATCH,
                "ema_halflife_steps": 0.5 * MILLION / BATCH,
                "ema_rampup_ratio": 0.05,
                "log_every": 100,
                "sample_every": 5_000,
                "checkpoint_every": 5_000,
            },
            "sampler": {"name": "heun"},
            "grid": {"name": "karras", "num_steps": 18},
            "sampling": {"num_samples": 50_000, "batch_size": 512},
            "likelihood": {"dequantisation": "truncated_normal", "batch_size": 64},
        }
    ).lock()
