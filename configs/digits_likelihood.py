"""The digits run by maximum likelihood, on the levels themselves.

    python -m experiments.train --config=configs/digits_likelihood.py --workdir=DIR

Training sees the centres of the grey levels; the loss is the integral of the
variational bound, by importance sampling (Song et al. 2021b; Kingma et al. 2021). A bin
is six sigma wide at t_min, where scoring takes over with truncated normal points (Zheng
et al. 2023) and the bound with the discretised decoder.
"""

from ml_collections import ConfigDict

from . import digits


def get_config() -> ConfigDict:
    """The config of digits.py with another objective, and what goes with it."""
    config = digits.get_config().unlock()
    config.data.points = "centres"
    config.sde = {"name": "edm", "t_min": 0.0196, "t_max": 80.0}
    config.noise_levels = {"name": "likelihood_importance", "stratified": True}
    config.weight = {"name": "noise"}
    config.grid.sigma_min = 0.0196
    config.likelihood.dequantisation = "truncated_normal"
    return config.lock()
