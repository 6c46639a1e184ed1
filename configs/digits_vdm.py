"""Digits by the variational bound with a learned noise schedule.

    python -m experiments.train --config=configs/digits_vdm.py --workdir=DIR

The objective of variational diffusion models (Kingma et al. 2021): the integral of the
bound over log sigma, each level drawn as often as the variance of its estimate asks
for. Else as digits_likelihood.py.
"""

from ml_collections import ConfigDict

from . import digits_likelihood


def get_config() -> ConfigDict:
    """The config of digits_likelihood.py with the schedule learned."""
    config = digits_likelihood.get_config().unlock()
    config.noise_levels = {"name": "learned", "stratified": True}
    return config.lock()
