"""CIFAR-10 in one step or two: students of an EDM run, with the published settings.

    score-sde train --config=cifar10_few_steps:ict --workdir=runs/ict
    score-sde distil --from=runs/edm --config=cifar10_few_steps:ect --workdir=runs/ect

`VARIANTS` has the methods; the network is that of the run which is distilled, EDM's
DDPM++ unless one is. Samples are drawn at the levels of the papers' two steps.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from . import cifar10_edm

DIMS = 32 * 32 * 3


def get_config(variant: str = "ict") -> ConfigDict:
    """The config, a section per object, of one of the `VARIANTS`."""
    if variant not in VARIANTS:
        raise ValueError(f"{variant!r} is no variant; choose from {[*VARIANTS]}.")
    config = cifar10_edm.get_config().unlock()
    config.network.dropout = 0.0
    config.conditions = {}
    config.sampler = {"name": "consistency"}
    VARIANTS[variant](config)
    return config.lock()


def settings(
    config: ConfigDict, *, rate: float, batch: int, steps: int, decay_steps: float
) -> None:
    """Set rectified Adam at a constant rate, and the half-life of the average."""
    config.optimizer = {"method": "radam", "learning_rate": rate}
    config.optimizer.clip_norm = float("inf")
    config.data.batch_size = batch
    config.train.num_steps = steps
    config.train.ema_halflife_steps = decay_steps
    config.train.ema_rampup_ratio = float("inf")


def cd(config: ConfigDict) -> None:
    """Distil a consistency model (Song et al. 2023, table 3): 18 levels, Heun's step.

    The paper's distance is LPIPS; here it is the squared error, its second best.
    """
    settings(config, rate=4e-4, batch=512, steps=800_000, decay_steps=6_931.0)
    config.objective = {"name": "consistency", "distance": "squared"}
    config.grid = {"name": "levels", "sigmas": (80.0, 0.821)}


def ct(config: ConfigDict) -> None:
    """Train a consistency model from data (Song et al. 2023, table 3)."""
    settings(config, rate=4e-4, batch=512, steps=800_000, decay_steps=6_931.0)
    config.objective = {
        "name": "consistency",
        "from_teacher": False,
        "start_from": "scratch",
        "distance": "squared",
        "first": 2,
        "last": 150,
        "decay": 0.9,
    }
    config.grid = {"name": "levels", "sigmas": (80.0, 0.821)}


def ict(config: ConfigDict) -> None:
    """Train an improved consistency model (Song and Dhariwal 2024, app. A)."""
    settings(config, rate=1e-4, batch=1024, steps=400_000, decay_steps=9_902.0)
    config.network.dropout = 0.3
    config.objective = {
        "name": "improved_consistency",
        "start_from": "scratch",
        "c": 0.00054 * DIMS**0.5,
        "dropout": True,
    }
    config.grid = {"name": "levels", "sigmas": (80.0, 0.821)}


def ect(config: ConfigDict) -> None:
    """Tune a consistency model (Geng et al. 2025): eight stages of 3.2 M images."""
    settings(config, rate=1e-4, batch=128, steps=200_000, decay_steps=6_931.0)
    config.network.dropout = 0.2
    config.noise_levels = {"name": "log_normal", "mean": -1.1, "std": 2.0}
    config.objective = {
        "name": "consistency_tuning",
        "factor": 2.0,
        "stages": 8,
        "c": 0.0,
        "dropout": True,
    }
    config.grid = {"name": "levels", "sigmas": (80.0, 0.821)}


def scd(config: ConfigDict) -> None:
    """Distil in continuous time, sCD (Lu and Song 2025, table 5)."""
    settings(config, rate=1e-4, batch=512, steps=400_000, decay_steps=6_931.0)
    config.optimizer.b2 = 0.99
    config.noise_levels = {"name": "log_normal", "mean": -1.0, "std": 1.4}
    config.objective = {"name": "continuous_consistency", "prior_weight": True}
    config.grid = {"name": "levels", "sigmas": (80.0, 0.98)}


def sct(config: ConfigDict) -> None:
    """Train in continuous time from data, sCT (Lu and Song 2025, table 5)."""
    scd(config)
    config.network.dropout = 0.2
    config.objective.from_teacher = False
    config.objective.dropout = True


def mean_flow(config: ConfigDict) -> None:
    """Train MeanFlow from scratch (Geng et al. 2025).

    Times and weight are of the authors' second program, v1 of py-meanflow. (The paper
    draws both times alike, logit-normal of mean -2 and deviation 2.)
    """
    settings(config, rate=6e-4, batch=1024, steps=800_000, decay_steps=13_863.0)
    config.optimizer.method = "adamw"
    config.optimizer.warmup_steps = 9_766  # 200 epochs
    config.network.dropout = 0.2
    config.precondition = {"name": "velocity"}
    config.objective = {
        "name": "mean_flow",
        "velocity": "data",
        "start_from": "scratch",
        "mean": -0.6,
        "std": 1.6,
        "lower_mean": -4.0,
        "lower_std": 1.6,
        "share_equal": 0.25,
        "power": 0.75,
        "dropout": True,
    }
    config.sampler = {"name": "jump"}
    config.grid = {"name": "levels", "sigmas": (80.0,)}


VARIANTS: dict[str, Callable[[ConfigDict], None]] = {
    "cd": cd,
    "ct": ct,
    "ict": ict,
    "ect": ect,
    "scd": scd,
    "sct": sct,
    "mean_flow": mean_flow,
}
"""What may stand behind the colon -> what it sets."""
