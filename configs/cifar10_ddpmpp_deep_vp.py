"""CIFAR-10 by the VP SDE: DDPM++, continuous, deep (Song et al. 2021).

    score-sde train --config=cifar10_ddpmpp_deep_vp --workdir=DIR

Published: FID 2.41, and 3.13 bits/dim by the flow; 106.6 million parameters, 950,001
steps. All else is as in configs/cifar10_ddpmpp_vp.py, at 1.7 times the compute a step.
"""

from ml_collections import ConfigDict

from . import cifar10_ddpmpp_vp


def get_config() -> ConfigDict:
    """The config of DDPM++ with twice the blocks."""
    config = cifar10_ddpmpp_vp.get_config().unlock()
    config.network.blocks_per_level = 8
    config.train.num_steps = 950_001
    return config.lock()
