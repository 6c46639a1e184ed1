"""CIFAR-10 by the VE SDE: NCSN++, continuous, deep (Song et al. 2021).

    score-sde train --config=cifar10_ncsnpp_deep_ve --workdir=DIR

Published: FID 2.20, inception score 9.89; 107.6 million parameters, 950,001 steps. All
else is as in configs/cifar10_ncsnpp_ve.py, at 1.7 times the compute a step.
"""

from ml_collections import ConfigDict

from . import cifar10_ncsnpp_ve


def get_config() -> ConfigDict:
    """The config of NCSN++ with twice the blocks."""
    config = cifar10_ncsnpp_ve.get_config().unlock()
    config.network.blocks_per_level = 8
    config.train.num_steps = 950_001
    return config.lock()
