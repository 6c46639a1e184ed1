"""Handwritten digits, 8x8, 17 grey levels: the default run.

    python -m experiments.train --config=configs/digits.py --workdir=runs/digits

The data come with scikit-learn. EDM's preconditioning and loss, with noise levels
spread wider towards the low ones than for pictures alone, since they decide the
likelihood; a network that sees the grey levels as waves; Muon. Four minutes on two CPU
cores.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config, a section per object."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {"name": "digits", "batch_size": 64, "sigma_data": 0.71},
            "sde": {"name": "edm", "t_min": 0.002, "t_max": 80.0},
            "network": {
                "name": "unet",
                "channels": 32,
                "multipliers": (1, 2),
                "blocks_per_level": 1,
                "dropout": 0.1,
                # One period per grey level, as the network sees its input, x / 0.71.
                "input_frequencies": (12.05,),
            },
            "precondition": {"name": "edm"},
            "noise_levels": {
                "name": "log_normal",
                "mean": -1.2,
                "std": 1.7,
                "stratified": True,
            },
            "weight": {"name": "edm"},
            "loss": {},
            "optimizer": {
                "method": "muon",
                "learning_rate": 0.02,
                "adam_learning_rate": 3e-3,
                "b2": 0.99,
                "schedule": "cosine",
            },
            "train": {
                "num_steps": 4_400,
                "ema_halflife_steps": 200.0,
                "log_every": 100,
                "sample_every": 1_100,
                "checkpoint_every": 550,
            },
            "sampler": {"name": "heun"},
            "grid": {
                "name": "karras",
                "num_steps": 18,
                "sigma_min": 0.002,
                "sigma_max": 80.0,
            },
            "sampling": {"num_samples": 1_000, "batch_size": 100},
            "likelihood": {
                "rtol": 1e-4,
                "atol": 1e-4,
                "batch_size": 60,
                "num_train": 360,
            },
        }
    )
    # 50 of 4,400; of a shorter run, as large a part.
    config.optimizer.warmup_steps = config.train.get_ref("num_steps") // 88
    return config.lock()
