"""Fashion-MNIST at 28x28: an autoencoder of 7x7 latents, 16 times fewer positions.

    score-sde prepare-data --config=fashion_mnist_kl --workdir=runs/fashion_kl
    score-sde train --config=fashion_mnist_kl --workdir=runs/fashion_kl
    score-sde encode --workdir=runs/fashion_kl

The architecture of Rombach et al. 2022 at f4, small; features of a classifier that is
trained on the training split in place of LPIPS, whose network wants larger images.
`digits:latent` is how a diffusion is trained on such latents.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config, a section per object."""
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "fashion_mnist",
                "batch_size": 64,
                "sigma_data": 0.71,
                "points": "centres",
            },
            "sde": {"name": "edm", "t_min": 0.002, "t_max": 80.0},
            "network": {
                "name": "kl_autoencoder",
                "latent_channels": 3,
                "channels": 32,
                "multipliers": (1, 2, 2),
                "blocks_per_level": 1,
                "groups": 8,
                "kl_weight": 1e-3,
            },
            "precondition": {"name": "edm"},
            "objective": {
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
            },
            "optimizer": {
                "learning_rate": 5e-4,
                "b1": 0.5,
                "b2": 0.9,
                "schedule": "cosine",
                "warmup_steps": 100,
            },
            "train": {
                "num_steps": 30_000,
                "sample_every": 5_000,
                "checkpoint_every": 5_000,
            },
            "sampler": {"name": "heun"},
            "grid": {"name": "karras", "num_steps": 18},
            "features": {"name": "classifier"},
        }
    ).lock()
