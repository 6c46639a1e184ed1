"""CIFAR-10 by the VP SDE: NCSN++, continuous (Song et al. 2021).

    score-sde train --config=cifar10_ncsnpp_vp --workdir=DIR

A configuration of the paper's program, without a result on its page; 62.7 million
parameters. Compute and all else are as in configs/cifar10_ddpmpp_vp.py.
"""

from ml_collections import ConfigDict

from . import cifar10_ddpmpp_vp


def get_config() -> ConfigDict:
    """The config of DDPM++ with filtered resampling and the image at every level."""
    config = cifar10_ddpmpp_vp.get_config().unlock()
    config.network.resample_filter = (1, 3, 3, 1)
    config.network.progressive_input = "residual"
    return config.lock()
