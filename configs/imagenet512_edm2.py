"""ImageNet at 512x512, in latents of 64x64x4: EDM2-XS (Karras et al. 2024).

    score-sde train --config=imagenet512_edm2 --workdir=runs/edm2

Published: FID 3.53, with guidance 2.91, after 2,147 million images; 125 million
parameters. Counted here: 0.27 TFLOP an image in training, 5.8e20 in all. The length of
the average was chosen after training (score-sde reconstruct-ema). The latents,
[n, 64, 64, 4], are those of Stable Diffusion's autoencoder, with mean 0 and standard
deviation 0.5, in an npz file; the published run draws them at every step.

imagenet512_edm2:s is EDM2-S: FID 2.56, with guidance 2.23; 280 million
parameters, 0.6 TFLOP an image in training, 1.3e21 in all.
"""

from ml_collections import ConfigDict

MILLION = 1_000_000
BATCH = 2048
LATENTS = "datasets/imagenet512-latents.npz"


def get_config(size: str = "xs") -> ConfigDict:
    """The config, a section per object, of size 'xs' or 's'."""
    sizes = {"xs": (128, 0.012), "s": (192, 0.010)}
    if size not in sizes:
        raise ValueError(f"{size!r} is no size; choose from {[*sizes]}.")
    channels, learning_rate = sizes[size]
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "files",
                "path": LATENTS,
                "test_path": LATENTS,
                "shape": (64, 64, 4),
                "num_levels": 0,
                "num_classes": 1000,
                "batch_size": BATCH,
                "sigma_data": 0.5,
            },
            "sde": {"name": "edm", "t_min": 0.002, "t_max": 80.0},
            "conditions": {"label": {}},
            "network": {
                "name": "edm2",
                "channels": channels,
                "multipliers": (1, 2, 3, 4),
                "blocks_per_level": 3,
                "attention_resolutions": (16, 8),
                "dtype": "bfloat16",
            },
            "precondition": {"name": "edm"},
            "noise_levels": {"name": "log_normal", "mean": -0.4, "std": 1.0},
            "weight": {"name": "edm"},
            "objective": {"name": "denoising", "learn_log_variance": True},
            "optimizer": {
                "learning_rate": learning_rate,
                "warmup_steps": 10 * MILLION // BATCH,
                "schedule": "inverse_sqrt",
                "decay_start_steps": 70_000,
                "b2": 0.99,
                "clip_norm": float("inf"),
            },
            "train": {
                "num_steps": 2**31 // BATCH,
                "power_ema_stds": (0.05, 0.1),
                "snapshot_every": 2**23 // BATCH,
                "checkpoint_every": 2**23 // BATCH,
                "sample_every": 2**23 // BATCH,
            },
            "sampler": {"name": "heun"},
            "grid": {"name": "karras", "num_steps": 32},
            "sampling": {"num_samples": 50_000, "batch_size": 64},
            "likelihood": {},
        }
    ).lock()
