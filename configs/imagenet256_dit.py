"""ImageNet at 256x256, in latents of 32x32x4: DiT-XL/2 (Peebles and Xie 2023).

    score-sde train --config=imagenet256_dit --workdir=runs/dit

Published: FID 2.27 with guidance of weight 1.5, --config.guidance.name=classifier_free
--config.guidance.weight=1.5 of score-sde sample; 674.8 million parameters, 7 million
steps of 256 images at 5.7 a second on a TPU v3-256. The latents, [n, 32, 32, 4], are
those of Stable Diffusion's autoencoder times 0.18215, in an npz file. The published run
flips its images and draws their latents at every step; these are drawn once. Samples
are drawn as in configs/imagenet64_adm.py.
"""

from ml_collections import ConfigDict

LATENTS = "datasets/imagenet256-latents.npz"


def get_config() -> ConfigDict:
    """The config, a section per object."""
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "files",
                "path": LATENTS,
                "test_path": LATENTS,
                "shape": (32, 32, 4),
                "num_levels": 0,
                "num_classes": 1000,
                "batch_size": 256,
                "points": "centres",
                "sigma_data": 1.0,
            },
            # The ends of the chain, as times of the SDE.
            "sde": {"name": "edm", "t_min": 0.01, "t_max": 157.4},
            "conditions": {"label": {}},
            "network": {
                "name": "dit",
                "patch_size": 2,
                "hidden_size": 1152,
                "depth": 28,
                "num_heads": 16,
            },
            "precondition": {"name": "chain"},
            "noise_levels": {"name": "uniform_time"},
            "weight": {"name": "noise"},
            "objective": {"name": "hybrid", "bound_weight": 0.001},
            "optimizer": {"learning_rate": 1e-4, "clip_norm": float("inf")},
            "train": {
                "num_steps": 7_000_000,
                "condition_dropout": 0.1,
                # A decay of 0.9999 from the first step on.
                "ema_halflife_steps": 6931.1,
                "ema_rampup_ratio": float("inf"),
                "log_every": 100,
                "sample_every": 50_000,
                "checkpoint_every": 10_000,
            },
            "sampler": {"name": "ddpm", "variance": "learned"},
            "grid": {
                "name": "ddpm",
                "num_steps": 250,
                "timestep_spacing": "linspace",
            },
            "sampling": {"num_samples": 50_000, "batch_size": 64},
            "likelihood": {},
        }
    ).lock()
