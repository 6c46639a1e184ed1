"""An experiment: what a config describes, in groups of what is used together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from score_sde.data import Dataset
from score_sde.editing import Restorer
from score_sde.run.model import Model
from score_sde.run.objective import Objective
from score_sde.run.settings import (
    Companion,
    Data,
    Editing,
    Evaluation,
    Sampling,
    Scoring,
)
from score_sde.runtime.mesh import Devices
from score_sde.samplers import Sampler
from score_sde.training.optimizer import Optimizer
from score_sde.training.settings import Training
from score_sde.types import Array, Denoise

OFFERED_BY_RUN = ("grid", "perturbed")
"""Needs of guidance that the run itself meets: its noise levels, and its model with
parts of the network left out. All other needs are roles of companions."""


EARLIER = "low_resolution"
"""The role of the run that draws the small pictures which this one is told."""


class Drawing(NamedTuple):
    """The way samples are drawn."""

    sampler: Sampler
    grid: Callable[[], Array]
    guidance: Callable[..., Denoise]
    """(denoiser, and what the companions offer by role) -> guided denoiser."""
    roles: tuple[str, ...]
    """Roles of the companions that guidance needs."""
    threshold: Callable[[Denoise], Denoise]
    own: tuple[str, ...] = ()
    """What guidance needs of the run itself: names in `OFFERED_BY_RUN`."""


class Experiment(NamedTuple):
    """The experiment that a config describes. Nothing here has touched a device."""

    seed: int
    dataset: Dataset
    data: Data
    model: Model
    objective: Objective
    optimizer: Optimizer
    train: Training
    devices: Devices
    drawing: Drawing
    sampling: Sampling
    likelihood: Scoring
    editing: Editing
    restoration: Callable[..., Restorer]
    """(denoiser, measurement, y, and what it wants) -> how a picture is restored."""
    evaluation: Evaluation
    features: Callable[[], Callable[[Any], np.ndarray]]
    """Makes the extractor of features from images."""
    metrics: Mapping[str, Callable[..., Any]]
    """Name -> (features of data, features of samples) -> estimates."""
    companions: Mapping[str, Companion]
    """Role -> where that run is."""

    @property
    def training_roles(self) -> tuple[str, ...]:
        """Roles of the companions without which it can't be trained."""
        known = (*self.model.network.companions, *self.objective.companions)
        return (*known, *self.dataset.made_by)

    @property
    def shown(self) -> Dataset:
        """The data that samples are compared with: of latents, the images."""
        return self.dataset.shown

    @property
    def scored(self) -> Dataset:
        """The data whose likelihood is computed: of latents the images, by a bound.

        Without a density of latents given an image there is no bound, and it is that
        of the latents.
        """
        return self.dataset if self.model.points_of_images is None else self.shown
