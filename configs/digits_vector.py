"""The digits run told numbers: how much ink, how slanted, how wide.

    python -m experiments.train  --config=configs/digits_vector.py --workdir=runs/vector
    python -m experiments.sample --workdir=runs/vector
        --config.sampling.vector=(0.32,0.25,0.17)

Attributes of `data/attributes.py`. One example in ten is trained without them, for
guidance.
"""

from ml_collections import ConfigDict

from . import digits


def get_config() -> ConfigDict:
    """The config of digits.py with attributes."""
    config = digits.get_config().unlock()
    config.condition = {"attributes": ("ink", "slant", "width")}
    config.network.vector_dims = 4  # one more, which says that they are told
    config.loss.condition_dropout = 0.1
    return config.lock()
