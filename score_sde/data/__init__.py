"""Data sets, their scaling, and the order in which training sees them."""

from collections.abc import Callable

from score_sde.data.augment import augment as augment
from score_sde.data.dataset import ABSENT as ABSENT
from score_sde.data.dataset import Dataset as Dataset
from score_sde.data.dataset import absent as absent
from score_sde.data.dataset import batch_at as batch_at
from score_sde.data.dataset import centres as centres
from score_sde.data.dataset import dequantise as dequantise
from score_sde.data.dataset import flip_at_random as flip_at_random
from score_sde.data.dataset import require_examples as require_examples
from score_sde.data.dataset import to_levels as to_levels
from score_sde.data.images import digits, patches
from score_sde.data.points import checkerboard, mixture, rings, spirals

DATASETS: dict[str, Callable[[], Dataset]] = {
    "digits": digits,
    "patches": patches,
    "rings": rings,
    "checkerboard": checkerboard,
    "spirals": spirals,
    "mixture": mixture,
}
