"""ImageNet at 64x64, class by class: ADM (Dhariwal and Nichol 2021).

    score-sde train --config=imagenet64_adm --workdir=DIR

Published (tables 5 and 11): FID 2.07 by 250 steps, without guidance; 295.9 million
parameters, 540,000 steps of 2,048 images, 1,106 million in all. The cosine chain of
1,000 steps with learned variances, by the hybrid loss; samples are drawn with these
variances. The data are the archive of EDM's dataset tool; all of them train.
"""

from ml_collections import ConfigDict

from .imagenet64_edm import ARCHIVE

CHAIN = {"beta_schedule": "cosine", "num_train_timesteps": 1000}


def get_config() -> ConfigDict:
    """The config, a section per object."""
    return ConfigDict(
        {
            "seed": 0,
            "chain": CHAIN,
            "data": {
                "name": "files",
                "path": ARCHIVE,
                "test_path": ARCHIVE,
                "shape": (64, 64, 3),
                "num_classes": 1000,
                "sigma_data": 0.5,
                "num_workers": 8,
                "batch_size": 2048,
                "random_flip": True,
                "points": "centres",
            },
            # The ends of the chain, as times of the SDE.
            "sde": {"name": "edm", "t_min": 0.0064, "t_max": 20291.0},
            "conditions": {"label": {}},
            "network": {
                "name": "adm",
                "channels": 192,
                "multipliers": (1, 2, 3, 4),
                "blocks_per_level": 3,
                "attention_resolutions": (32, 16, 8),
                "learn_sigma": True,
                "min_group": 1,
                "dropout": 0.1,
                "dtype": "bfloat16",
            },
            "precondition": {"name": "chain"},
            "noise_levels": {"name": "uniform_time"},
            "weight": {"name": "noise"},
            "objective": {"name": "hybrid", "bound_weight": 0.001},
            "optimizer": {"learning_rate": 3e-4, "clip_norm": float("inf")},
            "train": {
                "num_steps": 540_000,
                # A decay of 0.9999 from the first step on.
                "ema_halflife_steps": 6931.1,
                "ema_rampup_ratio": float("inf"),
                "log_every": 100,
                "sample_every": 10_000,
                "checkpoint_every": 10_000,
            },
            "sampler": {"name": "ddpm", "variance": "learned"},
            "grid": {
                "name": "ddpm",
                "num_steps": 250,
                "timestep_spacing": "linspace",
            },
            "sampling": {"num_samples": 50_000, "batch_size": 256},
            "likelihood": {"dequantisation": "truncated_normal", "batch_size": 64},
        }
    ).lock()
