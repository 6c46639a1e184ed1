"""The digits run on the variance-preserving SDE of Song et al. 2021.

python -m experiments.train --config=configs/digits_vp.py --workdir=runs/digits_vp
"""

from ml_collections import ConfigDict

from . import digits


def get_config() -> ConfigDict:
    """The config of digits.py with another SDE, and what goes with it."""
    config = digits.get_config().unlock()
    # At t_min the noise level is 0.002, a sixtieth of a grey level, as in digits.py.
    config.sde = {"name": "vp", "beta_min": 0.1, "beta_max": 20.0, "t_min": 4e-5}
    config.precondition = {"name": "noise"}
    # One period per grey level: here the network sees x itself at low noise.
    config.network.input_frequencies = (17.0,)
    config.weight = {"name": "noise"}
    config.noise_levels = {"name": "likelihood_importance", "stratified": True}
    config.grid = {"name": "uniform_time", "num_steps": 100}
    return config.lock()
