"""FFHQ 16 to 128: SR3 (Saharia et al. 2021), super-resolution by a conditional DDPM.

    score-sde train --config=ffhq128_sr3 --workdir=DIR

Published for CelebA-HQ faces after training on FFHQ: 550 million parameters, a million
steps of 256 images; PSNR 23.04, SSIM 0.65, consistency 2.68e-5. The linear betas from
1e-6 to 1e-2 of 2,000 steps are here their limit, the VP SDE with these ends, and the
paper's piecewise uniform levels are uniform in its time. The network is DDPM++, which
has the paper's residual blocks of BigGAN and its sums over sqrt 2; it is told the noise
level by its logarithm, the paper's by sqrt(abar), and its loss is the squared error.
The data are an archive of EDM's dataset tool, of 128x128 pixels; all of them train.
"""

from ml_collections import ConfigDict

ARCHIVE = "datasets/ffhq-128x128.zip"


def get_config() -> ConfigDict:
    """The config, a section per object."""
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "files",
                "path": ARCHIVE,
                "test_path": ARCHIVE,
                "shape": (128, 128, 3),
                "num_workers": 8,
                "batch_size": 256,
                "random_flip": True,
                "points": "centres",
                "sigma_data": 0.5,
            },
            # beta(t) = 2000 beta_k at t = k / 2000; t_min is behind the first step.
            "sde": {"name": "vp", "beta_min": 0.002, "beta_max": 20.0, "t_min": 5e-4},
            "conditions": {
                "low_resolution": {
                    "factor": 8,
                    "method": "bicubic",
                    "num_levels": 256,
                    "resize": "bicubic",
                    "is_marked": False,
                }
            },
            "network": {
                "name": "song_unet",
                "channels": 128,
                "multipliers": (1, 2, 4, 8, 8),
                "blocks_per_level": 3,
                "attention_resolutions": (16,),
                "dropout": 0.2,
                "dtype": "bfloat16",
            },
            "precondition": {"name": "noise"},
            "noise_levels": {"name": "uniform_time"},
            "weight": {"name": "noise"},
            "optimizer": {
                "learning_rate": 1e-4,
                "warmup_steps": 10_000,
                "clip_norm": float("inf"),
            },
            "train": {
                "num_steps": 1_000_000,
                # A decay of 0.9999 from the first step on.
                "ema_halflife_steps": 6931.1,
                "ema_rampup_ratio": float("inf"),
                "log_every": 100,
                "sample_every": 20_000,
                "checkpoint_every": 10_000,
            },
            # Any number of steps: it was trained on all levels.
            "sampler": {"name": "euler_ancestral"},
            "grid": {"name": "uniform_time", "num_steps": 100},
            "sampling": {"num_samples": 1_000, "batch_size": 64},
            "likelihood": {"dequantisation": "truncated_normal", "batch_size": 32},
        }
    ).lock()
