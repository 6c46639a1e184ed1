"""Settings: the fields of those sections of a config that have no alternatives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from score_sde.data import Dataset, centres
from score_sde.data.local import OnThisMachine
from score_sde.dequantisation import DEQUANTISATIONS
from score_sde.divergences import is_power_of_two
from score_sde.fields import require, settings
from score_sde.likelihood import DIVERGENCES, SOLVERS
from score_sde.rules import (
    NonNegative,
    Positive,
    at_least,
    between,
    each,
    one_of,
    up_to,
    within,
)
from score_sde.run.tasks import TASKS
from score_sde.schedules import BETA_SCHEDULES, chain_levels

POINTS = ("uniform", "centres", "variational")
NUM_MEASURED = 10_000
"""Training examples from which sigma_data is measured where it is not stated."""


@settings
class Data:
    """Settings of the data; the source that `name` picks has options of its own.

    Attributes:
        batch_size: examples of one training step, over all devices and hosts.
        random_flip: whether training mirrors each image with probability a half.
        sigma_data: the standard deviation of the scaled data, which EDM's
            preconditioner and weight need; None for what the files record of it, or
            else to measure it on training examples.
        points: how training turns a level into a point: 'uniform', a point drawn from
            its bin; 'centres', the centre of its bin; 'variational', the point where a
            flow puts it that is trained with the network.
        num_workers: processes of each host that read and decode ahead.
    """

    batch_size: Annotated[int, at_least(1)] = 128
    random_flip: bool = False
    sigma_data: Annotated[float | None, Positive] = None
    points: Annotated[str, one_of(POINTS)] = "uniform"
    num_workers: Annotated[int, NonNegative] = 0

    def problems(self, dataset: Dataset) -> list[str]:
        """The settings that do not suit a data set, a text each."""
        found = []
        if self.random_flip and len(dataset.shape) != 3:
            found.append("random_flip is True; it is for images")
        if self.points == "variational" and dataset.num_levels is None:
            found.append(
                f"points is 'variational'; it is for images of levels, not for "
                f"{dataset.name}"
            )
        return found


def measured_sigma_data(dataset: Dataset, num_examples: int = NUM_MEASURED) -> float:
    """The standard deviation of scaled training data, from examples evenly apart."""
    count = len(dataset.train)
    rows = np.unique(np.linspace(0, count - 1, min(count, num_examples)).astype(int))
    read = dataset.train[rows]
    x = centres(read["values"], num_levels=dataset.stored.num_levels)
    if dataset.part is not None:
        x = dataset.part.take(x)
    variance = np.var(np.asarray(x, np.float64))
    if "std" in read:  # of latents that are drawn around their means
        variance += np.mean(np.asarray(read["std"], np.float64) ** 2)
    return float(np.sqrt(variance))


def resolved(
    config: Mapping[str, Any], dataset: Dataset, sigma_data: float
) -> dict[str, Any]:
    """The config as a run keeps it: what was measured is stated, folders are whole."""
    companions = {
        role: {**where, "run": str(Path(where["run"]).resolve())}
        for role, where in config.get("companions", {}).items()
    }
    data = {**config["data"], **dataset.found, "sigma_data": sigma_data}
    return {**config, "data": data, "companions": companions}


@settings
class Chain:
    """The discrete chain that the network was, or is, trained on."""

    beta_schedule: Annotated[str, one_of(BETA_SCHEDULES)] = "linear"
    num_train_timesteps: Annotated[int, at_least(1)] = 1000
    beta_start: Annotated[float, between(0, 1)] = 1e-4
    beta_end: Annotated[float, between(0, 1)] = 0.02
    zero_terminal_snr: bool = False

    @property
    def levels(self) -> np.ndarray:
        """The noise levels of the chain, ascending."""
        return chain_levels(
            self.beta_schedule,
            self.num_train_timesteps,
            self.beta_start,
            self.beta_end,
            self.zero_terminal_snr,
        )


@settings
class Companion:
    """Another run that this one uses.

    Attributes:
        run: the folder of that run.
        step: the checkpoint to take; 0 for the newest.
        changes: sections, or fields of them, that are other than in the config of that
            run, such as {"grid": {"num_steps": 10}}: how an earlier stage of a cascade
            is sampled.
    """

    run: str
    step: Annotated[int, NonNegative] = 0
    changes: dict[str, Any] | None = None


@settings
class Sampling:
    """The number of samples, and of those at once; contents don't depend on it.

    Attributes:
        num_samples: how many are drawn.
        batch_size: how many at once.
        decode_tile: of latents, the longest side that is decoded at once; tiles overlap
            by a quarter and are blended. 0 for all of it.
    """

    num_samples: Annotated[int, at_least(1)] = 64
    batch_size: Annotated[int, at_least(1)] = 64
    decode_tile: Annotated[int, NonNegative] = 0


@settings
class Editing:
    """Settings of what is done to a picture; section `restoration` says how.

    Attributes:
        task: how the picture came about; more may be registered in `run.tasks.TASKS`.
        image: a picture file; of super_resolve the small one, of deblur the blurred, of
            stroke the one with strokes painted over it. Or a .npy file of what was
            measured, floats in units of the data, which is taken as it is.
        mask: of inpaint and stroke, a picture file that is white where the image is
            drawn anew.
        strength: of image_to_image and stroke, the share of the grid's steps that are
            taken.
        factor: of super_resolve.
        blur_std: of deblur, in pixels.
        quality: of jpeg, with which the picture was saved.
        noise_std: of the noise in the image, in units of the data, which go from -1 to
            1.
        num_samples: how many results are drawn, from which their mean and standard
            deviation are shown too.
    """

    task: Annotated[str, one_of(TASKS)] = "image_to_image"
    image: str = ""
    mask: str = ""
    strength: Annotated[float, up_to(1)] = 0.5
    factor: Annotated[int, at_least(1)] = 2
    blur_std: Annotated[float, Positive] = 1.0
    quality: Annotated[int, within(1, 100)] = 50
    noise_std: Annotated[float, NonNegative] = 0.0
    num_samples: Annotated[int, at_least(1)] = 8

    def problems(self, shape: tuple[int, ...]) -> list[str]:
        """The settings that do not suit data of this shape, a text each."""
        if self.task == "colourise" and shape[-1] != 3:
            return [f"task is 'colourise'; data of shape {shape} have no three colours"]
        if self.task == "jpeg" and (any(n % 8 for n in shape[:2]) or len(shape) != 3):
            return [f"task is 'jpeg'; it is for images in blocks of 8, not for {shape}"]
        return []


SPLITS = ("train", "test")


@settings
class Evaluation:
    """Settings of the comparison of samples with data.

    Attributes:
        against: the split of the data; two halves of it give the floor of a metric.
        num_real: how many of its examples; 0 for all.
        reference: a file of statistics instead of the examples: of `reference-stats`,
            EDM, EDM2 or guided-diffusion; "" for the examples.
        num_shown: how many samples the picture shows beside their nearest training
            examples; 0 for none, which spares reading these.
        step_counts: numbers of steps of the grid at which as many samples are drawn and
            measured besides, for quality against evaluations; where grid.sigmas states
            the levels, every second, third, ... of these.
        in_training: how many samples are measured by all metrics every
            train.sample_every steps, beside the other reports; 0 for none.
    """

    against: Annotated[str, one_of(SPLITS)] = "train"
    num_real: Annotated[int, NonNegative] = 0
    reference: Annotated[str, OnThisMachine] = ""
    num_shown: Annotated[int, NonNegative] = 12
    step_counts: Annotated[tuple[int, ...], each(Positive)] = ()
    in_training: Annotated[int, NonNegative] = 0


@settings
class Scoring:
    """Settings of log-likelihoods.

    Attributes:
        divergence: of the probability flow: exact, or estimated by random probes.
        num_probes: of each evaluation, where it is estimated; a power of two where the
            divergence is hierarchical, whose probes differ between neighbours.
        dequantisation: truncated_normal is for models trained on centres, variational
            for those trained with a flow, uniform for the others.
        solver: multistep, which takes one evaluation a step and states its error, or
            dopri5, the Runge-Kutta method of most published numbers.
        order: of multistep.
        num_steps: steps of multistep, even in log sigma; 0 for steps of each example's
            own, by the tolerances.
        num_jumps: evaluations of a student that learns the divergence of its jumps; 0
            for 8 of such a student. All the above are then of the flow that it is
            compared with.
        rtol: relative tolerance of the solver.
        atol: absolute tolerance of the solver.
        batch_size: examples that are solved at once.
        repeats: passes over the data, each with fresh points and probes.
        num_checked: how many examples are solved three times more, with fresh points,
            with fresh probes and at a tenth of the tolerance, to split the error.
        bound_draws: noise levels at which each example's variational bound is measured.
        num_train: how many training examples to score beside all test examples, to see
            how far the model fits one better than the other.
    """

    divergence: Annotated[str, one_of(DIVERGENCES)] = "hutchinson"
    num_probes: Annotated[int, at_least(1)] = 1
    dequantisation: Annotated[str, one_of(DEQUANTISATIONS)] = "uniform"
    solver: Annotated[str, one_of(SOLVERS)] = "multistep"
    order: Annotated[int, within(1, 4)] = 4
    num_steps: Annotated[int, NonNegative] = 0
    num_jumps: Annotated[int, NonNegative] = 0
    rtol: Annotated[float, between(0, 1)] = 1e-5
    atol: Annotated[float, between(0, 1)] = 1e-5
    batch_size: Annotated[int, at_least(1)] = 60
    repeats: Annotated[int, at_least(1)] = 1
    num_checked: Annotated[int, at_least(2)] = 60
    bound_draws: Annotated[int, at_least(1)] = 32
    num_train: Annotated[int, NonNegative] = 0

    def __post_init__(self) -> None:
        require(
            self,
            (
                "num_probes a power of two for divergence 'hierarchical'",
                lambda s: (
                    s.divergence != "hierarchical" or is_power_of_two(s.num_probes)
                ),
            ),
            (
                "solver 'multistep' where num_steps > 0",
                lambda s: s.num_steps == 0 or s.solver == "multistep",
            ),
        )

    def problems(self, points: str) -> list[str]:
        """The settings that do not suit how training made its points, a text each."""
        if self.dequantisation == "variational" and points != "variational":
            return [
                "dequantisation is 'variational'; it needs the flow of data.points "
                "'variational'"
            ]
        return []
