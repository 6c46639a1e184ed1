"""CIFAR-10, unconditional: EDM on NCSN++ (Karras et al. 2022, config F, "VE").

    score-sde train --config=cifar10_edm_ve --workdir=DIR

Published (table 2): FID 1.98 by 35 evaluations, the best of three draws; 56.4 million
parameters. Compute and all else are as in configs/cifar10_edm.py.
"""

from ml_collections import ConfigDict

from . import cifar10_edm


def get_config() -> ConfigDict:
    """The config of the run on DDPM++ with another network."""
    config = cifar10_edm.get_config().unlock()
    config.network.embedding = "fourier"
    config.network.resample_filter = (1, 3, 3, 1)
    config.network.progressive_input = "residual"
    return config.lock()
