"""Conditions: what a network is told of an example beside its noise level.

A condition is registered in `CONDITIONS` as a function that returns a `Condition`, with
keyword-only options that a config can set; `dataset` is given to it.
"""

from collections.abc import Callable

from score_sde.conditions.augmentation import augmentation
from score_sde.conditions.classes import label as label
from score_sde.conditions.condition import Cond as Cond
from score_sde.conditions.condition import Condition as Condition
from score_sde.conditions.condition import Rows as Rows
from score_sde.conditions.condition import SmallPicture as SmallPicture
from score_sde.conditions.condition import augmented as augmented
from score_sde.conditions.condition import constant as constant
from score_sde.conditions.condition import in_sampling as in_sampling
from score_sde.conditions.condition import in_training as in_training
from score_sde.conditions.condition import in_turn as in_turn
from score_sde.conditions.condition import of_blank as of_blank
from score_sde.conditions.condition import of_drawn as of_drawn
from score_sde.conditions.condition import of_examples as of_examples
from score_sde.conditions.condition import of_points as of_points
from score_sde.conditions.condition import of_samples as of_samples
from score_sde.conditions.condition import small_picture as small_picture
from score_sde.conditions.guidance_weight import GUIDANCE as GUIDANCE
from score_sde.conditions.guidance_weight import guidance_weight as guidance_weight
from score_sde.conditions.low_resolution import coarse as coarse
from score_sde.conditions.low_resolution import low_resolution as low_resolution
from score_sde.conditions.picture import image as image
from score_sde.conditions.picture import silhouette as silhouette
from score_sde.conditions.picture import small as small
from score_sde.conditions.vector import vector as vector
from score_sde.conditions.words import words as words

CONDITIONS: dict[str, Callable[..., Condition]] = {
    "label": label,
    "words": words,
    "vector": vector,
    "image": image,
    "low_resolution": low_resolution,
    "coarse": coarse,
    "guidance_weight": guidance_weight,
    "augment": augmentation,
}
"""Name of the condition -> function that makes it from its options."""
