"""Image patches by the variational bound with a learned noise schedule, 256 levels.

    python -m experiments.train --config=configs/patches_vdm.py --workdir=DIR

As digits_vdm.py: training sees the centres of the levels, and each noise level as often
as the variance of its estimate asks for (Kingma et al. 2021). A bin is six sigma wide
at t_min.
"""

from ml_collections import ConfigDict

from . import patches


def get_config() -> ConfigDict:
    """The config of patches.py with the bound as objective."""
    config = patches.get_config().unlock()
    config.data.points = "centres"
    config.sde = {"name": "edm", "t_min": 0.0013, "t_max": 80.0}
    config.network.input_frequencies = (16.0, 32.0)
    config.noise_levels = {"name": "learned", "stratified": True}
    config.weight = {"name": "noise"}
    config.grid.sigma_min = 0.0013
    config.likelihood.dequantisation = "truncated_normal"
    return config.lock()
