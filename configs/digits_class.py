"""The digits run told which digit it draws, and sometimes not: for guidance.

    python -m experiments.train  --config=configs/digits_class.py --workdir=runs/class
    python -m experiments.sample --workdir=runs/class --config.sampling.labels=(3,7)
        --config.guidance.name=classifier_free --config.guidance.weight=3.0

One example in ten is trained without its label, so that the network knows all digits
together too.
"""

from ml_collections import ConfigDict

from . import digits


def get_config() -> ConfigDict:
    """The config of digits.py with classes."""
    config = digits.get_config().unlock()
    config.network.num_classes = 10
    config.loss.condition_dropout = 0.1
    return config.lock()
