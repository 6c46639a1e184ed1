"""FFHQ at 64x64: EDM on DDPM++ (Karras et al. 2022, table 2, "VP").

    score-sde train --config=ffhq64_edm --workdir=runs/ffhq

Published: FID 2.39 by 79 evaluations, the best of three draws; 61.8 million parameters,
200 million images, about four days on eight V100. The data are the archive of EDM's
dataset tool; all of them train.
"""

from ml_collections import ConfigDict

from . import cifar10_edm
from .cifar10_edm import MILLION

BATCH = 256
ARCHIVE = "datasets/ffhq-64x64.zip"


def get_config() -> ConfigDict:
    """The config of CIFAR-10 with other data, at other rates."""
    config = cifar10_edm.get_config().unlock()
    config.data.update(
        name="files",
        path=ARCHIVE,
        test_path=ARCHIVE,
        shape=(64, 64, 3),
        num_workers=4,
        batch_size=BATCH,
    )
    config.conditions.augment.probability = 0.15
    config.network.update(multipliers=(1, 2, 2, 2), dropout=0.05)
    config.optimizer.update(learning_rate=2e-4, warmup_steps=10 * MILLION // BATCH)
    config.train.num_steps = 200 * MILLION // BATCH
    config.train.ema_halflife_steps = 0.5 * MILLION / BATCH
    config.grid.num_steps = 40
    return config.lock()
