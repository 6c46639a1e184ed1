"""ImageNet at 64x64, class by class: EDM on ADM's network (Karras et al. 2022).

    score-sde train --config=imagenet64_edm --workdir=runs/adm

Published: FID 1.36 by 511 evaluations with churn; 295.9 million parameters,
2,500 million images in half precision, about 13 days on 32 A100. The data are the
archive of EDM's dataset tool; all of them train.
"""

from ml_collections import ConfigDict

from . import cifar10_edm
from .cifar10_edm import MILLION

BATCH = 4096
ARCHIVE = "datasets/imagenet-64x64.zip"


def get_config() -> ConfigDict:
    """The config of CIFAR-10 with other data, another network and churn."""
    config = cifar10_edm.get_config().unlock()
    config.data.update(
        name="files",
        path=ARCHIVE,
        test_path=ARCHIVE,
        shape=(64, 64, 3),
        num_workers=8,
        batch_size=BATCH,
        num_classes=1000,
    )
    config.conditions = {"label": {}}
    config.network = {
        "name": "adm",
        "channels": 192,
        "multipliers": (1, 2, 3, 4),
        "blocks_per_level": 3,
        "attention_resolutions": (32, 16, 8),
        "dropout": 0.1,
        "dtype": "bfloat16",
    }
    config.optimizer.update(learning_rate=1e-4, warmup_steps=10 * MILLION // BATCH)
    config.train.num_steps = 2500 * MILLION // BATCH
    config.train.ema_halflife_steps = 50.0 * MILLION / BATCH
    config.sampler = {"name": "edm_stochastic"}
    config.grid.num_steps = 256
    return config.lock()
