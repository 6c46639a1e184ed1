"""ImageNet at 512x512, in latents of 64x64x4: EDM2-S (Karras et al. 2024).

    python -m experiments.train --config=configs/imagenet512_edm2_s.py --workdir=runs/s

Published: FID 2.56, with guidance 2.23, after 2,147 million images; 280 million
parameters. Counted here: 0.6 TFLOP an image in training, 1.3e21 in all. Otherwise as
configs/imagenet512_edm2.py.
"""

from ml_collections import ConfigDict

from . import imagenet512_edm2


def get_config() -> ConfigDict:
    """The config of EDM2-XS, wider."""
    config = imagenet512_edm2.get_config().unlock()
    config.network.channels = 192
    config.optimizer.learning_rate = 0.010
    return config.lock()
