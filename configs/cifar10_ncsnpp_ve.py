"""CIFAR-10 by the VE SDE: NCSN++, continuous (Song et al. 2021).

    score-sde train --config=cifar10_ncsnpp_ve --workdir=runs/ve

Published (table 3): FID 2.38 by 2,000 evaluations of predictor and corrector; 62.8
million parameters. At 0.2 s a step, as its program's page says for four V100, the 1.3
million steps take three days. The paper's images are in [0, 1] and its noise levels
half of these.
"""

from ml_collections import ConfigDict

from . import cifar10_ncsnpp_vp

# The published loss is half the sum over the dimensions, this one their mean. With the
# norm of clipping and Adam's eps divided by the ratio, the updates are the same.
SUM_OF_MEAN = 32 * 32 * 3 / 2


def get_config() -> ConfigDict:
    """The config of VP with another SDE, and what goes with it."""
    config = cifar10_ncsnpp_vp.get_config().unlock()
    config.sde = {"name": "ve", "sigma_min": 0.02, "sigma_max": 100.0, "t_min": 1e-5}
    config.precondition.name = "ve"
    config.network.embedding = "fourier"
    config.optimizer.update(clip_norm=1 / SUM_OF_MEAN, eps=1e-8 / SUM_OF_MEAN)
    # A decay of 0.999.
    config.train.ema_halflife_steps = 692.8
    config.sampler = {
        "name": "predictor_corrector",
        "predictor": "reverse_diffusion",
        "corrector": "langevin",
        "snr": 0.16,
    }
    config.grid = {"name": "uniform_time", "num_steps": 1000}
    return config.lock()
