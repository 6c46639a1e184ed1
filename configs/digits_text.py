"""The digits run on a network that reads captions: "a handwritten seven".

    python -m experiments.train  --config=configs/digits_text.py --workdir=runs/text
    python -m experiments.sample --workdir=runs/text
        --config.sampling.caption="the digit seven"

Five ways to say a digit, of `data/captions.py`, read by a small transformer that is
trained along. One example in ten is trained without its caption.
"""

from ml_collections import ConfigDict

from . import digits


def get_config() -> ConfigDict:
    """The config of digits.py with captions."""
    config = digits.get_config().unlock()
    config.network = {
        "name": "text_unet",
        "num_words": 18,
        "num_classes": 10,
        "channels": 32,
        "multipliers": (1, 2),
        "blocks_per_level": 1,
        "attention_resolutions": (4,),
        "dropout": 0.1,
    }
    config.loss.condition_dropout = 0.1
    return config.lock()
