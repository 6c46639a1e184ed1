"""Digits by maximum likelihood, with the points of each level learned too.

    python -m experiments.train --config=configs/digits_variational.py --workdir=DIR

A conditional flow puts the points within their bins (Ho et al. 2019), trained together
with the network by the variational bound (Song et al. 2021b, sec. 5).
"""

from ml_collections import ConfigDict

from . import digits


def get_config() -> ConfigDict:
    """The config of digits.py with the bound as objective and learned points."""
    config = digits.get_config().unlock()
    config.data.points = "variational"
    config.noise_levels = {"name": "likelihood_importance", "stratified": True}
    config.weight = {"name": "noise"}
    config.likelihood.dequantisation = "variational"
    return config.lock()
