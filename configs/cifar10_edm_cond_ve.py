"""CIFAR-10, class by class: EDM on NCSN++ (Karras et al. 2022, config F, "VE").

    score-sde train --config=cifar10_edm_cond_ve --workdir=DIR

Published (table 2): FID 1.79 by 35 evaluations, the best of three draws. Compute and
all else are as in configs/cifar10_edm_ve.py.
"""

from ml_collections import ConfigDict

from . import cifar10_edm_ve


def get_config() -> ConfigDict:
    """The config of the unconditional run with classes."""
    config = cifar10_edm_ve.get_config().unlock()
    config.conditions.label = {}
    return config.lock()
