"""32x32 colour patches of two photographs, 256 levels.

    python -m experiments.train --config=configs/patches.py --workdir=runs/patches

The same program as for CIFAR-10, at a size for a CPU: about an hour on two cores. Test
patches are cut from regions of the photographs that training never sees.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config, a section per object."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "patches",
                "batch_size": 32,
                "random_flip": True,
                "sigma_data": 0.5,
            },
            "sde": {"name": "edm", "t_min": 0.002, "t_max": 80.0},
            "network": {
                "name": "unet",
                "channels": 32,
                "multipliers": (1, 2, 2),
                "blocks_per_level": 2,
                "attention_resolutions": (8,),
                "dropout": 0.05,
            },
            "precondition": {"name": "edm"},
            "noise_levels": {"name": "log_normal", "mean": -1.2, "std": 1.4},
            "weight": {"name": "edm"},
            "loss": {},
            "optimizer": {
                "learning_rate": 1e-3,
                "schedule": "cosine",
            },
            "train": {
                "num_steps": 4_000,
                "ema_halflife_steps": 300.0,
                "log_every": 50,
                "sample_every": 1_000,
                "checkpoint_every": 500,
            },
            "sampler": {"name": "heun"},
            "grid": {
                "name": "karras",
                "num_steps": 18,
                "sigma_min": 0.002,
                "sigma_max": 80.0,
            },
            "sampling": {"num_samples": 64, "batch_size": 16},
            "likelihood": {"rtol": 1e-4, "atol": 1e-4, "batch_size": 26},
        }
    )
    # 200 of 4,000; of a shorter run, as large a part.
    config.optimizer.warmup_steps = config.train.get_ref("num_steps") // 20
    return config.lock()
