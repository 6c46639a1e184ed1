"""The digits run told a picture of 4x4 pixels: super-resolution by training.

    python -m experiments.train  --config=configs/digits_image.py --workdir=runs/image
    python -m experiments.sample --workdir=runs/image
        --config.sampling.image=three.png

The means over blocks of 2x2 pixels stand beside the input, each as large as its block
(Saharia et al. 2021). One example in ten is trained without them, for guidance.
"""

from ml_collections import ConfigDict

from . import digits


def get_config() -> ConfigDict:
    """The config of digits.py with a small picture."""
    config = digits.get_config().unlock()
    config.condition = {"image": "small", "factor": 2}
    config.loss.condition_dropout = 0.1
    return config.lock()
