"""A small perceptron on 2-D rings.

    score-sde train --config=points --workdir=runs/points

About a minute on two CPU cores. --config.data.name=checkerboard, spirals or mixture.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config, a section per object."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {"name": "rings", "batch_size": 512, "sigma_data": 0.4},
            "sde": {"name": "edm", "t_min": 0.002, "t_max": 20.0},
            "network": {"name": "mlp", "width": 128, "depth": 4},
            "precondition": {"name": "edm"},
            "noise_levels": {"name": "log_normal", "mean": -1.6, "std": 1.4},
            "weight": {"name": "edm"},
            "optimizer": {
                "learning_rate": 2e-3,
                "schedule": "cosine",
            },
            "train": {
                "num_steps": 5_000,
                "ema_halflife_steps": 100.0,
                "log_every": 250,
                "sample_every": 2_500,
                "checkpoint_every": 2_500,
            },
            "sampler": {"name": "heun"},
            "grid": {"name": "karras", "num_steps": 32},
            "sampling": {"num_samples": 4096, "batch_size": 1024},
            "likelihood": {"divergence": "exact", "batch_size": 500},
        }
    )
    # 100 of 5,000; of a shorter run, as large a part.
    config.optimizer.warmup_steps = config.train.get_ref("num_steps") // 50
    return config.lock()
