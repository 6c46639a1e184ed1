"""The facts that a run needs about a network whose weights are published."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class Published(NamedTuple):
    """The configuration of a published model, and the name of its file."""

    network: str
    """Name of the network in a config."""
    options: dict[str, Any]
    """Arguments of the network, where they differ from the defaults."""
    shape: tuple[int, ...]
    """Shape of one example: height, width, channels."""
    precondition: str
    """Name of the preconditioning in `precondition.PRECONDITIONERS`."""
    sigma_min: float
    sigma_max: float
    """The noise levels that the network knows."""
    precondition_options: Mapping[str, Any] = NO_OPTIONS
    """Options of the preconditioning, where they differ from the defaults."""
    num_levels: int = 256
    """Grey levels of the images; 0 for latents of an autoencoder."""
    file: str = ""
    """The name it was released under; empty if only the configuration was."""
    objective: str = "denoising"
    """What it was trained by, as a config names it."""
    factor: int = 0
    """By how much it makes images bigger, of an upsampler, which is told small ones."""


# Images are in [-1, 1] here; in score_sde, those of the VE process are in [0, 1], so
# that its noise levels are half of these.
VP_LEVELS = (1.0005e-3, 152.16)
SUBVP_LEVELS = (1.001e-6, 152.16)
LINEAR_CHAIN_LEVELS = (0.01, 157.4)
COSINE_CHAIN_LEVELS = (0.0064, 20291.0)
LONG_COSINE_CHAIN_LEVELS = (0.0031, 81165.0)
EDM_LEVELS = (0.002, 80.0)


def published(
    network: str,
    options: dict[str, Any],
    *,
    shape: tuple[int, ...],
    precondition: str,
    levels: tuple[float, float],
    file: str = "",
    precondition_options: Mapping[str, Any] = NO_OPTIONS,
    factor: int = 0,
) -> Published:
    """A configuration of images in levels of grey; see `Published`."""
    return Published(
        network,
        options,
        shape,
        precondition,
        *levels,
        precondition_options=precondition_options,
        file=file,
        factor=factor,
    )
