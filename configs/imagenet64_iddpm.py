"""ImageNet at 64x64, unconditional: improved DDPM (Nichol and Dhariwal 2021).

    score-sde train --config=imagenet64_iddpm --workdir=DIR

Published (table 1): 3.57 bits/dim by the bound of the chain, FID 19.2; 121 million
parameters, 1.5 million steps of 128 images. The cosine chain of 4,000 steps with
learned variances, by the hybrid loss; samples are drawn as in
configs/imagenet64_adm.py.
"""

from ml_collections import ConfigDict

from . import imagenet64_adm

CHAIN = {"beta_schedule": "cosine", "num_train_timesteps": 4000}


def get_config() -> ConfigDict:
    """The config of ADM with other data, a smaller network and a longer chain."""
    config = imagenet64_adm.get_config().unlock()
    config.data = {
        "name": "downsampled_imagenet/64x64",
        "num_workers": 4,
        "batch_size": 128,
        "points": "centres",
        "sigma_data": 0.5,
    }
    config.sde.update(t_min=0.0031, t_max=81165.0)
    config.conditions = {}
    config.network = {
        "name": "adm",
        "channels": 128,
        "multipliers": (1, 2, 3, 4),
        "blocks_per_level": 3,
        "attention_resolutions": (16, 8),
        "channels_per_head": 0,
        "num_heads": 4,
        "resblock_updown": False,
        "use_new_attention_order": False,
        "learn_sigma": True,
        "min_group": 1,
    }
    # The network is told a timestep as if there were 1,000.
    config.chain = CHAIN
    config.precondition = {"name": "chain", "timestep_scale": 0.25}
    config.optimizer.learning_rate = 1e-4
    config.train.num_steps = 1_500_000
    return config.lock()
