"""ImageNet at 256x256: the autoencoders of latent diffusion (Rombach et al. 2022).

    score-sde train --config=imagenet256_ldm --workdir=runs/kl_f8
    score-sde encode --workdir=runs/kl_f8

Published, on OpenImages, crops of 256 pixels: kl-f8 reaches rFID 0.90, PSNR 24.19 after
246,803 steps; f4 0.27 and 27.53, f16 0.87 and 24.08, f32 2.04 and 22.27. The losses are
theirs but for what they warn of: the discriminator is trained from the start, and
phased in over 10,000 steps from the step at which it was switched on. The files of
LPIPS are named by --config.objective.perceptual_weights and perceptual_heads; without
them --config.objective.perceptual=none. imagenet256_ldm:f4, f16 and f32 are the others.
imagenet256_ldm:rae has DINOv2-B for an encoder and trains a transformer to decode it,
on noised latents (Zheng et al. 2025); --config.objective.encoder_weights is its file.
`imagenet256_dit` and `imagenet512_edm2` train on latents of f8.
"""

from ml_collections import ConfigDict

IMAGES = "datasets/imagenet256"
BATCH = 12
FACTORS = {
    "f4": (3, (1, 2, 4), ()),
    "f8": (4, (1, 2, 4, 4), ()),
    "f16": (16, (1, 1, 2, 2, 4), (4,)),
    "f32": (64, (1, 1, 2, 2, 4, 4), (4, 5)),
}
"""Name -> channels of the latents, multipliers, levels with attention."""


def get_config(factor: str = "f8") -> ConfigDict:
    """The config, a section per object, of a factor in `FACTORS`, or of 'rae'."""
    if factor == "rae":
        return representation()
    if factor not in FACTORS:
        raise ValueError(f"{factor!r} is no factor; choose from {[*FACTORS, 'rae']}.")
    channels, multipliers, attention = FACTORS[factor]
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "files",
                "path": IMAGES,
                "shape": (256, 256, 3),
                "batch_size": BATCH,
                "random_flip": True,
                "sigma_data": 0.5,
                "points": "centres",
            },
            "sde": {"name": "edm", "t_min": 0.002, "t_max": 80.0},
            "network": {
                "name": "kl_autoencoder",
                "latent_channels": channels,
                "multipliers": multipliers,
                "attention_levels": attention,
                "kl_weight": 1e-6,
            },
            "precondition": {"name": "edm"},
            "objective": {
                "name": "autoencoder",
                "perceptual": "lpips_vgg",
                "perceptual_weights": "weights/vgg16.pth",
                "perceptual_heads": "weights/lpips_vgg.pth",
                "discriminator": "hinge",
                "discriminator_weight": 0.5,
                "discriminator_learning_rate": 4.5e-6 * BATCH,
                "adversarial_start": 50_001,
                "adversarial_ramp": 10_000,
            },
            "optimizer": {
                "learning_rate": 4.5e-6 * BATCH,
                "b1": 0.5,
                "b2": 0.9,
                "clip_norm": float("inf"),
            },
            "train": {
                "num_steps": 250_000,
                "sample_every": 10_000,
                "checkpoint_every": 10_000,
            },
            "sampler": {"name": "heun"},
            "grid": {"name": "karras", "num_steps": 32},
        }
    ).lock()


def representation() -> ConfigDict:
    """The config of a frozen encoder with a trained decoder."""
    config = get_config().unlock()
    config.network = {
        "name": "representation_autoencoder",
        "encoder": "dinov2_b14_registers",
    }
    config.objective.encoder_weights = "weights/dinov2_vitb14_reg4_pretrain.pth"
    config.objective.latent_noise = 0.8
    return config.lock()
