"""CIFAR-10 by a cascade over wavelets, each stage by the variational bound.

    score-sde train --config=cifar10_wavelet:coarse --workdir=runs/cifar_coarse
    score-sde train --config=cifar10_wavelet --workdir=runs/cifar_details
    score-sde likelihood --workdir=runs/cifar_details
        --config.companions.low_resolution.run=runs/cifar_coarse

The idea of Li et al. 2025 (arXiv 2501.06999), who publish 2.35 bits/dim, the lowest
known: an orthonormal wavelet, and a variational diffusion model for each of its parts.
Not their settings, of which the number of stages and the sizes of networks are not
known to us: the network, the rates and the ends of the noise are those of
`cifar10_vdm`, here on points that are uniform in the bins of their levels, as parts of
images are.
"""

from ml_collections import ConfigDict

from . import cifar10_vdm

PARTS = {"": "details", "coarse": "coarse"}


def get_config(variant: str = "") -> ConfigDict:
    """The config of VDM on a part of the images.

    Args:
        variant: "" for the details, or "coarse".
    """
    if variant not in PARTS:
        raise ValueError(f"{variant!r} is no variant; choose from {[*PARTS]}.")
    config = cifar10_vdm.get_config().unlock()
    config.data.update(
        name="wavelet",
        source={"name": "cifar10"},
        part=PARTS[variant],
        points="uniform",
        sigma_data=0.5 if variant else 0.1,
    )
    config.likelihood.dequantisation = "uniform"
    config.network.input_frequencies = ()
    if not variant:
        config.conditions = {"coarse": {}}
        # One period per two grey levels, and per one, over the deviation of details.
        config.network.update(input_frequencies=(12.8, 25.6), waves_of_pixels=True)
    return config.lock()
