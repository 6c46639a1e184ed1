"""Autoencoders, their losses, and latents as data."""

from collections.abc import Callable
from typing import Any

from score_sde.latents.autoencoders import Autoencoder as Autoencoder
from score_sde.latents.autoencoders import KLAutoencoder as KLAutoencoder
from score_sde.latents.coder import Bottleneck as Bottleneck
from score_sde.latents.coder import Coder as Coder
from score_sde.latents.deep import DeepAutoencoder as DeepAutoencoder
from score_sde.latents.posterior import Posterior as Posterior
from score_sde.latents.quantised import FSQAutoencoder as FSQAutoencoder
from score_sde.latents.quantised import VQAutoencoder as VQAutoencoder
from score_sde.latents.representation import (
    RepresentationAutoencoder as RepresentationAutoencoder,
)
from score_sde.latents.tiny import TinyAutoencoder as TinyAutoencoder

AUTOENCODERS: dict[str, Callable[..., Any]] = {
    "kl_autoencoder": KLAutoencoder,
    "vq_autoencoder": VQAutoencoder,
    "fsq_autoencoder": FSQAutoencoder,
    "taesd": TinyAutoencoder,
    "dc_ae": DeepAutoencoder,
    "representation_autoencoder": RepresentationAutoencoder,
}
"""Name -> a Linen module whose `parts` are a `Coder`."""
