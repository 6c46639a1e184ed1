"""What is known of a network whose weights are published."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class Published(NamedTuple):
    """What a run needs to know to use somebody's weights."""

    network: str
    """Its name in `build.NETWORKS`."""
    options: dict[str, Any]
    """Its arguments, where they differ from the defaults."""
    shape: tuple[int, ...]
    """Of one example: height, width, channels."""
    precondition: str
    """Its name in `precondition.PRECONDITIONERS`."""
    sigma_min: float
    sigma_max: float
    """The noise levels that the network knows."""
    precondition_options: Mapping[str, Any] = NO_OPTIONS
    """Of the preconditioning, where they differ from the defaults."""
    num_levels: int = 256
    """Grey levels of the images; 0 for latents of an autoencoder."""
    file: str = ""
    """The name it was released under; empty if only the configuration was."""
