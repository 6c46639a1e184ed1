"""ImageNet 64 to 256 and 128 to 512, class by class: ADM's upsamplers.

    score-sde train --config=imagenet_upsampler --workdir=DIR        # 64 to 256
    score-sde train --config=imagenet_upsampler:512 --workdir=DIR    # 128 to 512
    score-sde sample --workdir=DIR
        --config.companions.low_resolution.run=RUN_OF_64

Published (Dhariwal and Nichol 2021, tables 5 and 12): 312 and 309 million parameters,
500,000 steps of 256 images; behind guided samples of 64 or 128, FID 3.94 at 256 and
3.85 at 512 by 250 steps. The linear chain of 1,000 steps with learned variances. The
small picture is a mean over blocks, resized bilinearly and seen beside x, without
noise. The data are archives of EDM's dataset tool; all of them train.
"""

from ml_collections import ConfigDict

from . import imagenet64_adm

SIDES = {"": 256, "512": 512}


def get_config(variant: str = "") -> ConfigDict:
    """The config of ADM at 64 with another network, at other rates.

    Args:
        variant: "" for 64 to 256, or "512" for 128 to 512.
    """
    if variant not in SIDES:
        raise ValueError(f"{variant!r} is no variant; choose from {[*SIDES]}.")
    side, config = SIDES[variant], imagenet64_adm.get_config().unlock()
    archive = f"datasets/imagenet-{side}x{side}.zip"
    config.chain = {"beta_schedule": "linear", "num_train_timesteps": 1000}
    config.sde.update(t_min=0.01, t_max=157.4)
    config.data.update(
        path=archive, test_path=archive, shape=(side, side, 3), batch_size=256
    )
    config.conditions["low_resolution"] = {
        "factor": 4,
        "num_levels": 256,
        "resize": "bilinear",
        "is_marked": False,
    }
    config.network.update(
        channels=192,
        multipliers=(1, 1, 2, 2, 4, 4),
        blocks_per_level=2,
        dropout=0.0,
        use_new_attention_order=False,
    )
    if side == 256:
        config.network.update(channels_per_head=0, num_heads=4)
    else:
        config.network.update(attention_resolutions=(32, 16))
    config.optimizer.learning_rate = 1e-4
    config.train.num_steps = 500_000
    config.sampling.batch_size = 32
    return config.lock()
