"""The digits run on the variance-exploding SDE of Song et al. 2021.

python -m experiments.train --config=configs/digits_ve.py --workdir=runs/digits_ve
"""

from ml_collections import ConfigDict

from . import digits


def get_config() -> ConfigDict:
    """The config of digits.py with another SDE, and what goes with it."""
    config = digits.get_config().unlock()
    config.sde = {"name": "ve", "sigma_min": 0.005, "sigma_max": 50.0}
    config.precondition = {"name": "ve"}
    # One period per grey level: here the network sees x itself at low noise.
    config.network.input_frequencies = (17.0,)
    config.weight = {"name": "noise"}
    config.noise_levels = {"name": "likelihood_importance", "stratified": True}
    config.grid = {"name": "uniform_time", "num_steps": 100}
    return config.lock()
