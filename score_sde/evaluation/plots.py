"""Pictures of samples, written as PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def save_samples(path: Path, samples: np.ndarray, *, num_levels: int | None) -> None:
    """A grid of images, or a scatter plot of points.

    Args: `samples`, integer levels [count, height, width, channels], or with num_levels
    None, points [count, 2] or latents [count, height, width, channels], of which three
    channels are shown, from -2 to 2.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    if num_levels is None and samples.ndim == 4:
        channels = samples[..., : 3 if samples.shape[-1] >= 3 else 1]
        _grid(partial, np.clip(channels / 4 + 0.5, 0, 1), num_levels=2)
    elif num_levels is None:
        _scatter(partial, samples)
    else:
        _grid(partial, samples, num_levels)
    partial.rename(path)


def save_bound(folder: Path, levels: dict[str, np.ndarray]) -> None:
    """loss_by_level.png and rate_distortion.png of `report.bound_by_level`.

    Where in the noise the bits are, and how good x0 is after how many of them (Ho et
    al. 2020, fig. 5), in the scale of the data.
    """
    _curves(
        folder / "loss_by_level.png",
        [("sigma", "noise level", "loss", "bits/dim per unit of log sigma")],
        levels,
    )
    _curves(
        folder / "rate_distortion.png",
        [
            ("sigma", "noise level", "distortion", "root mean squared error of x0"),
            ("sigma", "noise level", "rate", "bits/dim received"),
            ("rate", "bits/dim received", "distortion", "root mean squared error"),
        ],
        levels,
    )


def save_losses(path: Path, sigmas: np.ndarray, losses: np.ndarray) -> None:
    """The loss of held-out examples by their noise level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _curves(
        path,
        [("sigma", "noise level", "loss", "weighted loss, held out")],
        {"sigma": sigmas, "loss": losses},
    )


def save_metrics(path: Path, rows: Sequence[Mapping[str, float | None]]) -> None:
    """The curves of a run by step: losses, gradient, speed, and what steps wait for."""
    from matplotlib.figure import Figure

    panels = (
        ("loss", ("loss", "test_loss")),
        ("gradient norm", ("gradient_norm",)),
        ("images per second", ("images_per_second",)),
        ("share of time, or seconds", ("data_wait", "save_seconds")),
    )
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, (label, names) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for name in names:
            known = [(r["step"], r[name]) for r in rows if r.get(name) is not None]
            if known:
                axes.plot(*zip(*known, strict=True), label=name, marker=".", ms=3)
        axes.set(xlabel="step", ylabel=label)
        if label == "gradient norm":
            axes.set_yscale("log")
        if len(names) > 1 and axes.lines:
            axes.legend()
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, format="png", dpi=110)
    partial.rename(path)


def _curves(
    path: Path, panels: list[tuple[str, str, str, str]], values: dict[str, np.ndarray]
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(panels), 3.5), layout="constrained")
    for axes, (x, x_label, y, y_label) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        axes.plot(values[x], values[y], marker=".")
        axes.set(xlabel=x_label, ylabel=y_label)
        if x == "sigma":
            axes.set_xscale("log")
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, format="png", dpi=120)
    partial.rename(path)


def _grid(path: Path, levels: np.ndarray, num_levels: int) -> None:
    from PIL import Image

    count, height, width, channels = levels.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    # Margins of one pixel, and small images enlarged so that a person can see them.
    sheet = np.zeros((rows * (height + 1) + 1, columns * (width + 1) + 1, channels))
    for i, image in enumerate(levels):
        top, left = (i // columns) * (height + 1) + 1, (i % columns) * (width + 1) + 1
        sheet[top : top + height, left : left + width] = image / (num_levels - 1)
    pixels = np.round(255 * sheet).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    enlarge = max(1, 640 // max(picture.size))
    size = (picture.width * enlarge, picture.height * enlarge)
    picture.resize(size, Image.Resampling.NEAREST).save(path, format="PNG")


def _scatter(path: Path, points: np.ndarray) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(points[:, 0], points[:, 1], s=4, alpha=0.5, linewidths=0)
    axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal", xlabel="x", ylabel="y")
    figure.savefig(path, format="png", dpi=120)
