"""CIFAR-10 by the VP SDE: DDPM++, continuous (Song et al. 2021).

    score-sde train --config=cifar10_ddpmpp_vp --workdir=runs/vp

Published (tables 2 and 3): FID 2.55, and 3.16 bits/dim by the flow; 61.8 million
parameters. At 0.2 s a step, which its program's page gives for NCSN++ on four V100, the
1.3 million steps take three days.

Training sees the centres of the levels, without noise in their bins; scoring fills the
bins, five times over.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config, a section per object."""
    return ConfigDict(
        {
            "seed": 42,
            "data": {
                "name": "cifar10",
                "batch_size": 128,
                "random_flip": True,
                "points": "centres",
                "sigma_data": 0.5,
            },
            "sde": {"name": "vp", "beta_min": 0.1, "beta_max": 20.0, "t_min": 1e-5},
            "network": {
                "name": "song_unet",
                "channels": 128,
                "multipliers": (1, 2, 2, 2),
                "blocks_per_level": 4,
                "attention_resolutions": (16,),
                "dropout": 0.1,
                "embedding": "positional",
            },
            "precondition": {"name": "vp"},
            "noise_levels": {"name": "uniform_time"},
            "weight": {"name": "noise"},
            "optimizer": {"learning_rate": 2e-4, "warmup_steps": 5_000},
            "train": {
                "num_steps": 1_300_001,
                # A decay of 0.9999 from the first step on.
                "ema_halflife_steps": 6931.1,
                "ema_rampup_ratio": float("inf"),
                "log_every": 50,
                "sample_every": 50_000,
                "checkpoint_every": 10_000,
            },
            "sampler": {
                "name": "predictor_corrector",
                "predictor": "euler_maruyama",
                "corrector": "none",
            },
            "grid": {"name": "vp", "num_steps": 1000, "eps_s": 1e-3},
            "sampling": {"num_samples": 50_000, "batch_size": 1024},
            "likelihood": {"batch_size": 64, "repeats": 5},
        }
    ).lock()
