"""Data sets, their scaling, and the order in which training sees them."""

from score_sde.data.augment import augment as augment
from score_sde.data.dataset import ABSENT as ABSENT
from score_sde.data.dataset import Dataset as Dataset
from score_sde.data.dataset import Examples as Examples
from score_sde.data.dataset import Format as Format
from score_sde.data.dataset import InMemory as InMemory
from score_sde.data.dataset import Part as Part
from score_sde.data.dataset import absent as absent
from score_sde.data.feeding import batch_at as batch_at
from score_sde.data.feeding import batches as batches
from score_sde.data.files import FILES as FILES
from score_sde.data.files import files as files
from score_sde.data.identity import identity as identity
from score_sde.data.scaling import centres as centres
from score_sde.data.scaling import dequantise as dequantise
from score_sde.data.scaling import flip_at_random as flip_at_random
from score_sde.data.scaling import to_levels as to_levels
from score_sde.data.scaling import within_bins as within_bins
from score_sde.data.smaller import WAYS as WAYS
from score_sde.data.smaller import Shrinking as Shrinking
from score_sde.data.smaller import smaller as smaller
from score_sde.data.sources import DATASETS as DATASETS
from score_sde.data.sources import SOURCES as SOURCES
from score_sde.data.tfds import TFDS as TFDS
from score_sde.data.tfds import tfds_set as tfds_set
from score_sde.data.units import Units as Units
