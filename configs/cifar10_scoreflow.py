"""CIFAR-10 by maximum likelihood: ScoreFlow on DDPM++, deep (Song et al. 2021b).

    score-sde train --config=cifar10_scoreflow --workdir=DIR

Published: 2.83 bits/dim, the best of the paper, whose images are not flipped. The
likelihood weighting by importance sampling, and points that a flow puts into the bins.
The paper trains that flow after the network, for 300,001 steps; here it is trained
along. Compute and all else are as in configs/cifar10_ddpmpp_deep_vp.py.
"""

from ml_collections import ConfigDict

from . import cifar10_ddpmpp_deep_vp


def get_config() -> ConfigDict:
    """The config of the deep VP run with the bound as objective."""
    config = cifar10_ddpmpp_deep_vp.get_config().unlock()
    config.data.random_flip = False
    config.data.points = "variational"
    config.noise_levels.name = "likelihood_importance"
    config.train.log_every = 100
    config.likelihood.dequantisation = "variational"
    return config.lock()
