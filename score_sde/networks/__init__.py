"""Networks. Flax lives in this folder and nowhere else."""

from collections.abc import Callable
from typing import Any

from score_sde.networks.adm import ADM as ADM
from score_sde.networks.adm_classifier import ADMClassifier as ADMClassifier
from score_sde.networks.classifier import Classifier as Classifier
from score_sde.networks.cond import over_pixels as over_pixels
from score_sde.networks.cond import with_image as with_image
from score_sde.networks.controlled_unet import ControlledUNet as ControlledUNet
from score_sde.networks.cross_unet import CrossUNet as CrossUNet
from score_sde.networks.ddpm import DDPMUNet as DDPMUNet
from score_sde.networks.dequantiser import Dequantiser as Dequantiser
from score_sde.networks.dit import TENSOR_AXES as TENSOR_AXES
from score_sde.networks.dit import DiT as DiT
from score_sde.networks.edm2 import EDM2 as EDM2
from score_sde.networks.log_variance import LogVariance as LogVariance
from score_sde.networks.mlp import MLP as MLP
from score_sde.networks.network import Network as Network
from score_sde.networks.network import StatesItsNeeds as StatesItsNeeds
from score_sde.networks.network import as_network as as_network
from score_sde.networks.network import count_parameters as count_parameters
from score_sde.networks.network import from_linen as from_linen
from score_sde.networks.network import from_nnx as from_nnx
from score_sde.networks.network import part_of_network as part_of_network
from score_sde.networks.network import predicts_variance as predicts_variance
from score_sde.networks.network import problems_of as problems_of
from score_sde.networks.network import reads as reads
from score_sde.networks.network import with_companions as with_companions
from score_sde.networks.perturbed import perturbed as perturbed
from score_sde.networks.song_unet import SongUNet as SongUNet
from score_sde.networks.text_unet import TextUNet as TextUNet
from score_sde.networks.unet import UNet as UNet

NETWORKS: dict[str, Callable[..., Any]] = {
    "unet": UNet,
    "mlp": MLP,
    "ddpm": DDPMUNet,
    "song_unet": SongUNet,
    "adm": ADM,
    "edm2": EDM2,
    "dit": DiT,
    "cross_unet": CrossUNet,
    "text_unet": TextUNet,
    "controlled_unet": ControlledUNet,
    "classifier": Classifier,
}
"""Name -> a Linen module, an NNX one, or a function that returns a `Network`."""
