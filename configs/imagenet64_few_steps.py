"""ImageNet at 64x64 in one step or two: students of EDM's run, or of EDM2-S's.

    score-sde train --config=imagenet64_few_steps:ict --workdir=runs/ict
    score-sde distil --from=runs/adm --config=imagenet64_few_steps:cd --workdir=runs/cd
    score-sde distil --from=runs/s --config=imagenet64_few_steps:ect --workdir=runs/ect

`VARIANTS` has the methods, with the settings of the papers and, for `ect` and `scd`, of
NVIDIA's FastGen. Published FID in one step: `cd` 6.20 (in two 4.70; with LPIPS), `ect`
4.05, `ict` with twice the blocks 3.25 (2.77). Samples are drawn at the levels of their
two steps.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from . import cifar10_few_steps, imagenet64_edm, imagenet64_edm2
from .cifar10_few_steps import settings

DIMS = 64 * 64 * 3
DECAY_STEPS = 12_207.0
"""Half-life of an average that keeps 0.9999432 of itself."""


def get_config(variant: str = "ict") -> ConfigDict:
    """The config, a section per object, of one of the `VARIANTS`."""
    if variant not in VARIANTS:
        raise ValueError(f"{variant!r} is no variant; choose from {[*VARIANTS]}.")
    teacher = imagenet64_edm2 if variant == "ect" else imagenet64_edm
    config = teacher.get_config().unlock()
    config.network.dropout = 0.0
    config.sampler = {"name": "consistency"}
    VARIANTS[variant](config)
    return config.lock()


def cd(config: ConfigDict) -> None:
    """Distil a consistency model (Song et al. 2023, table 3): 40 levels.

    The paper's better distance is LPIPS; here it is the squared error.
    """
    cifar10_few_steps.cd(config)
    settings(config, rate=8e-6, batch=2048, steps=600_000, decay_steps=DECAY_STEPS)
    config.objective.update(first=40, last=40, decay=0.95)
    config.grid = {"name": "levels", "sigmas": (80.0, 1.382)}


def ct(config: ConfigDict) -> None:
    """Train a consistency model from data (Song et al. 2023, table 3)."""
    cifar10_few_steps.ct(config)
    settings(config, rate=1e-4, batch=2048, steps=800_000, decay_steps=DECAY_STEPS)
    config.objective.update(last=200, decay=0.95)
    config.grid = {"name": "levels", "sigmas": (80.0, 1.913)}


def ict(config: ConfigDict) -> None:
    """Train with the improved techniques (Song and Dhariwal 2024)."""
    cifar10_few_steps.ict(config)
    settings(config, rate=1e-4, batch=4096, steps=800_000, decay_steps=23_105.0)
    config.network.dropout = 0.2
    config.objective.c = 0.00054 * DIMS**0.5


def ect(config: ConfigDict) -> None:
    """Tune EDM2-S (Geng et al. 2025): four stages, with the average chosen later.

    The published run has dropout at 16x16 and 8x8 alone.
    """
    config.data.batch_size = 1024
    config.train.num_steps = 150_000
    config.network.dropout = 0.4
    config.optimizer = {
        "learning_rate": 1e-3,
        "schedule": "inverse_sqrt",
        "decay_start_steps": 2_000,
        "b2": 0.99,
    }
    config.noise_levels = {"name": "log_normal", "mean": -0.8, "std": 1.6}
    config.objective = {
        "name": "consistency_tuning",
        "factor": 4.0,
        "stages": 4,
        "c": 0.06,
        "pair_weight": "edm",
        "dropout": True,
    }
    config.grid = {"name": "levels", "sigmas": (80.0, 1.526)}


def scd(config: ConfigDict) -> None:
    """Distil in continuous time, sCD (Lu and Song 2025)."""
    cifar10_few_steps.scd(config)
    settings(config, rate=7e-5, batch=1024, steps=600_000, decay_steps=6_931.0)
    config.optimizer = {
        "learning_rate": 7e-5,
        "schedule": "inverse_sqrt",
        "decay_start_steps": 35_000,
        "b2": 0.99,
        "eps": 1e-11,
        "clip_norm": 10.0,
    }
    config.noise_levels.std = 1.6


VARIANTS: dict[str, Callable[[ConfigDict], None]] = {
    "cd": cd,
    "ct": ct,
    "ict": ict,
    "ect": ect,
    "scd": scd,
}
"""What may stand behind the colon -> what it sets."""
