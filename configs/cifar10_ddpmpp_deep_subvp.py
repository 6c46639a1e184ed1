"""CIFAR-10 by the sub-VP SDE: DDPM++, continuous, deep (Song et al. 2021).

    score-sde train --config=cifar10_ddpmpp_deep_subvp --workdir=DIR

Published: FID 2.41, and 2.99 bits/dim by the flow; 106.6 million parameters, 950,001
steps. All else is as in configs/cifar10_ddpmpp_subvp.py, at 1.7 times the compute a
step.
"""

from ml_collections import ConfigDict

from . import cifar10_ddpmpp_subvp


def get_config() -> ConfigDict:
    """The config of DDPM++ with twice the blocks."""
    config = cifar10_ddpmpp_subvp.get_config().unlock()
    config.network.blocks_per_level = 8
    config.train.num_steps = 950_001
    return config.lock()
