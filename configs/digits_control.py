"""The digits run, frozen, with a branch that a silhouette controls.

    python -m experiments.train       --config=configs/digits.py --workdir=runs/digits
    python -m experiments.add_control --config=configs/digits_control.py
        --from=runs/digits --workdir=runs/control
    python -m experiments.train       --workdir=runs/control
    python -m experiments.sample      --workdir=runs/control
        --config.sampling.image=three.png

One example in ten is trained without its silhouette, for guidance.
"""

from ml_collections import ConfigDict

from . import digits


def get_config() -> ConfigDict:
    """The config of digits.py with a branch, trained half as long."""
    config = digits.get_config().unlock()
    config.network.name = "controlled_unet"
    config.condition = {"image": "silhouette"}
    config.loss.condition_dropout = 0.1
    config.train.num_steps = 2_200
    config.optimizer.warmup_steps = config.train.get_ref("num_steps") // 44
    return config.lock()
