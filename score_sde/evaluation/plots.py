"""Pictures of samples and of what was measured, written as PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.data.local import replaced

LATENT_RANGE = 2.0
"""Latents are shown from minus to plus this."""
NUM_SERIES, NUM_COLUMNS = 12, 4


def save_samples(
    path: Path,
    samples: np.ndarray,
    *,
    num_levels: int | None,
    columns: int | None = None,
) -> None:
    """Draw samples: images and volumes as a grid, points as a scatter, series as lines.

    Args:
        path: of the picture.
        samples: [count, *shape]. Of latents three channels are shown, of volumes the
            middle slice, of points in two dimensions a scatter, of others how often
            each value of each coordinate comes, of the first twelve.
        num_levels: of integer levels; None for floats.
        columns: of the grid; None for as many as rows.
    """
    with replaced(path) as partial:
        if samples.ndim >= 4:
            _grid(partial, _as_shown(samples, num_levels), columns)
        elif samples.ndim == 3:
            _series(partial, samples)
        else:
            _points(partial, samples.reshape(len(samples), -1))


def save_bound(folder: Path, levels: dict[str, np.ndarray]) -> None:
    """Draw loss_by_level.png and rate_distortion.png of `report.bound_by_level`.

    They show where in the noise the bits are, and how good x0 is after how many of them
    (Ho et al. 2020, fig. 5), in the scale of the data.
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
    """Draw the loss of held-out examples by their noise level."""
    _curves(
        path,
        [("sigma", "noise level", "loss", "weighted loss, held out")],
        {"sigma": sigmas, "loss": losses},
    )


def save_metrics(path: Path, rows: Sequence[Mapping[str, float | None]]) -> None:
    """Draw a run by step: losses, gradient, speed, and what steps wait for."""
    panels = (
        ("loss", ("loss", "test_loss")),
        ("gradient norm", ("gradient_norm",)),
        ("images per second", ("images_per_second",)),
        ("share of time, or seconds", ("data_wait", "save_seconds")),
    )
    figure = _figure(9, 6)
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
    with replaced(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


class Costs(NamedTuple):
    """The Frechet distance of samples against what they cost, in ascending order."""

    num_evals: np.ndarray
    distance: np.ndarray
    low: np.ndarray
    high: np.ndarray


def save_evaluation(
    path: Path,
    *,
    samples: np.ndarray,
    neighbours: np.ndarray | None,
    num_levels: int | None,
    curve: Mapping[str, np.ndarray] | None,
    costs: Costs | None = None,
    floor: float | None,
    caption: str,
) -> None:
    """Draw samples beside their nearest training examples, FD against n and cost.

    Args:
        path: of the picture.
        samples: images or volumes [n, ..., channels] as they are stored, shown in the
            top row; of others no neighbours are drawn.
        neighbours: training examples [n, k, ...], the nearest first; None for none.
        num_levels: grey levels of the images; None for latents.
        curve: the distance by the number of samples; None for none.
        costs: the distance by the number of evaluations; None for none.
        floor: the distance between two halves of the data.
        caption: what was measured, and against what.
    """
    has_images = neighbours is not None and samples.ndim >= 4 and len(samples)
    panels = sum(map(bool, (has_images, curve is not None, costs is not None)))
    if not panels:
        return
    figure = _figure(6.5 * panels, 3.8)
    figure.suptitle(caption, fontsize=9)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    if has_images and neighbours is not None:
        _neighbours(axes.pop(0), samples, neighbours, num_levels)
    if curve is not None:
        _distance_by_number(axes.pop(0), curve, floor)
    if costs is not None:
        _distance_by_cost(axes.pop(0), costs, floor)
    with replaced(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


class Ends(NamedTuple):
    """A number and the ends of its interval, NaN where it has none."""

    value: float
    low: float
    high: float


def save_comparison(
    path: Path,
    *,
    names: tuple[str, str],
    losses: tuple[np.ndarray, np.ndarray],
    numbers: Mapping[str, tuple[Ends, Ends]],
) -> bool:
    """Draw two runs side by side: losses by step, and a panel for each number.

    Args:
        path: of the picture.
        names: of the runs.
        losses: steps and losses of either run, [rows, 2]; empty for none.
        numbers: what is measured -> the number of either run.
    Returns: whether there was anything to draw.
    """
    has_losses = any(map(len, losses))
    panels = has_losses + len(numbers)
    if not panels:
        return False
    columns = min(panels, NUM_COLUMNS)
    rows = math.ceil(panels / columns)
    figure = _figure(max(6.0, 3.2 * columns), 2.8 * rows + 0.5)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[panels:]:
        spare.set_visible(False)
    if has_losses:
        first = axes.pop(0)
        for color, points in zip(("C0", "C1"), losses, strict=True):
            first.plot(*points.T, color=color, marker=".", ms=3)
        first.set(xlabel="step", ylabel="loss", title="training")
    for numbered, (title, both) in zip(axes, numbers.items(), strict=False):
        for place, (color, (value, low, high)) in enumerate(
            zip(("C0", "C1"), both, strict=True)
        ):
            bars = [[value - low], [high - value]] if low <= value <= high else None
            numbered.errorbar([place], [value], bars, fmt="o", color=color, capsize=4)
        numbered.set(xlim=(-0.7, 1.7), xticks=[], title=title)
    lines = [figure.axes[0].plot([], [], "o-", color=c)[0] for c in ("C0", "C1")]
    figure.legend(lines, names, loc="outside upper center", ncols=2, fontsize=9)
    with replaced(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
    return True


def _neighbours(
    axes: Any, samples: np.ndarray, neighbours: np.ndarray, num_levels: int | None
) -> None:
    """Draw a row of samples, and below each its nearest training examples."""
    rows = [samples, *np.moveaxis(neighbours, 1, 0)]
    images = _as_shown(np.concatenate(rows), num_levels)
    sheet = _sheet(images, len(samples))
    axes.imshow(
        sheet[..., 0] if sheet.shape[-1] == 1 else sheet,
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    step = samples.shape[-3] + 1
    ordinals = ("nearest", "second", "third")[: len(rows) - 1]
    axes.set_yticks(
        [step * (i + 0.5) for i in range(len(rows))], ["samples", *ordinals]
    )
    axes.set_xticks([])
    axes.set_title("samples, and the nearest training examples", fontsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _distance_by_number(
    axes: Any, curve: Mapping[str, np.ndarray], floor: float | None
) -> None:
    """Draw the Frechet distance against the number of samples, and its limit."""
    number, limit = curve["number"], float(curve["limit"])
    line = np.linspace(number.min(), number.max(), 200)
    axes.plot(number, curve["distance"], "o", color="C0", label="of n samples")
    axes.plot(line, limit + curve["slope"] / line, color="C0", lw=1, label="a + b / n")
    axes.axhline(limit, color="C0", ls=":", label=f"n to infinity: {limit:.3g}")
    if floor is not None:
        axes.axhline(
            floor, color="C7", ls="--", label=f"floor, two halves: {floor:.3g}"
        )
    axes.set(xlabel="number of samples", ylabel="Frechet distance")
    if few := int(curve["few"]):
        text = f"{few} of {len(number)} are of no more examples than features: bias"
        axes.set_title(text, fontsize=9)
    axes.set_ylim(bottom=min(0.0, limit) - 0.05 * float(curve["distance"].max()))
    axes.legend(fontsize=8)


def _distance_by_cost(axes: Any, costs: Costs, floor: float | None) -> None:
    """Draw the Frechet distance against evaluations, with its intervals."""
    bars = np.abs(np.stack([costs.low, costs.high]) - costs.distance)
    axes.errorbar(costs.num_evals, costs.distance, bars, fmt="o-", capsize=3, lw=1)
    if floor is not None:
        axes.axhline(
            floor, color="C7", ls="--", label=f"floor, two halves: {floor:.3g}"
        )
        axes.legend(fontsize=8)
    axes.set(xlabel="evaluations of the denoiser", ylabel="Frechet distance")
    axes.set_xscale("log")
    axes.set_xticks(costs.num_evals, [f"{n:g}" for n in costs.num_evals])
    axes.minorticks_off()


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _curves(
    path: Path, panels: list[tuple[str, str, str, str]], values: dict[str, np.ndarray]
) -> None:
    """Draw (x, its label, y, its label) of each panel side by side."""
    figure = _figure(4.5 * len(panels), 3.5)
    for axes, (x, x_label, y, y_label) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        axes.plot(values[x], values[y], marker=".")
        axes.set(xlabel=x_label, ylabel=y_label)
        if x == "sigma":
            axes.set_xscale("log")
    with replaced(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def _as_shown(samples: np.ndarray, num_levels: int | None) -> np.ndarray:
    """Images, volumes or latents [n, ..., channels] as images from 0 to 1."""
    middle = [n // 2 for n in samples.shape[1:-3]]
    slices = samples[(slice(None), *middle)]
    shown = slices[..., : 3 if slices.shape[-1] >= 3 else 1]
    if num_levels is None:
        return np.clip(shown / (2 * LATENT_RANGE) + 0.5, 0, 1)
    return shown / (num_levels - 1)


def _grid(path: Path, images: np.ndarray, columns: int | None) -> None:
    from PIL import Image

    sheet = _sheet(images, columns or math.ceil(math.sqrt(len(images))))
    pixels = np.round(255 * sheet).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if sheet.shape[-1] == 1 else pixels)
    enlarge = max(1, 640 // max(picture.size))
    size = (picture.width * enlarge, picture.height * enlarge)
    picture.resize(size, Image.Resampling.NEAREST).save(path, format="PNG")


def _sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """Images from 0 to 1 in rows, with margins of one pixel between them."""
    count, height, width, channels = images.shape
    rows = math.ceil(count / columns)
    sheet = np.zeros((rows * (height + 1) + 1, columns * (width + 1) + 1, channels))
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + 1) + 1, (i % columns) * (width + 1) + 1
        sheet[top : top + height, left : left + width] = image
    return sheet


def _points(path: Path, points: np.ndarray) -> None:
    if points.shape[1] == 2:
        _scatter(path, points)
        return
    shown = points[:, :NUM_SERIES].T
    columns = min(len(shown), NUM_COLUMNS)
    rows = math.ceil(len(shown) / columns)
    figure = _figure(max(5.0, 2.6 * columns), max(5.0, 2.2 * rows))
    for number, values in enumerate(shown, start=1):
        axes = figure.add_subplot(rows, columns, number, xlabel=f"x{number}")
        axes.hist(values, bins=60, density=True)
    figure.supylabel("density")
    figure.savefig(path, format="png", dpi=120)


def _scatter(path: Path, points: np.ndarray) -> None:
    """Draw points in the plane: in one scale, unless one axis is far the longer."""
    figure = _figure(5, 5)
    axes = figure.subplots()
    axes.scatter(points[:, 0], points[:, 1], s=4, alpha=0.5, linewidths=0)
    short, long = np.sort(np.ptp(points, axis=0))
    if long < 4 * short:
        axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel="x1", ylabel="x2")
    figure.savefig(path, format="png", dpi=120)


def _series(path: Path, samples: np.ndarray) -> None:
    figure = _figure(9, 6)
    for axes, series in zip(
        figure.subplots(4, 3, sharex=True).flat, samples[:NUM_SERIES], strict=False
    ):
        axes.plot(series)
    figure.savefig(path, format="png", dpi=110)
