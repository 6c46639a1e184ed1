"""ImageNet at 64x64, in pixels: EDM2-S (Karras et al. 2024).

    score-sde train --config=imagenet64_edm2 --workdir=runs/s64

Published: FID 1.58 after 1,074 million images; 280 million parameters. Counted here:
0.6 TFLOP an image in training, 6.5e20 in all. The data are the archive of EDM's dataset
tool; all of them train.
"""

from ml_collections import ConfigDict

from . import imagenet512_edm2
from .imagenet64_edm import ARCHIVE


def get_config() -> ConfigDict:
    """The config of EDM2-XS on latents, wider and on pixels."""
    config = imagenet512_edm2.get_config().unlock()
    config.data.update(path=ARCHIVE, test_path=ARCHIVE, num_workers=8)
    config.data.update(shape=(64, 64, 3), num_levels=256, points="centres")
    config.network.channels = 192
    config.noise_levels.update(mean=-0.8, std=1.6)
    config.optimizer.update(learning_rate=0.010, decay_start_steps=35_000)
    config.train.num_steps = 2**30 // imagenet512_edm2.BATCH
    return config.lock()
