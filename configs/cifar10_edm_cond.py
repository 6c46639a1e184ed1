"""CIFAR-10, class by class: EDM on DDPM++ (Karras et al. 2022, config F, "VP").

    score-sde train --config=cifar10_edm_cond --workdir=DIR

Published (table 2): FID 1.79 by 35 evaluations, the best of three draws. Compute and
all else are as in configs/cifar10_edm.py.
"""

from ml_collections import ConfigDict

from . import cifar10_edm


def get_config() -> ConfigDict:
    """The config of the unconditional run with classes."""
    config = cifar10_edm.get_config().unlock()
    config.conditions.label = {}
    return config.lock()
