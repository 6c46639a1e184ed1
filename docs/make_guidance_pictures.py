"""Draw docs/guided_line.png and docs/guided_plane.png: what guidance does to a law.

python docs/make_guidance_pictures.py
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.guidance import (  # noqa: E402
    GRID,
    methods,
    ring,
    steered,
    tilted,
    told,
)
from score_sde import guidance, steering  # noqa: E402
from score_sde.oracles import LabelledMixture  # noqa: E402
from score_sde.samplers import sample  # noqa: E402

WEIGHT = 4.0


def line() -> LabelledMixture:
    """Three Gaussians on a line, the class likely at the right."""
    means, stds = np.asarray([-1.5, 0.2, 1.6]), np.asarray([0.4, 0.35, 0.4])
    likely = np.asarray([0.1, 0.5, 0.85])
    return LabelledMixture(
        jnp.asarray(means)[:, None],
        jnp.asarray(stds**2)[:, None, None],
        jnp.ones(3),
        jnp.asarray(np.stack([likely, 1 - likely])),
    )


def drawn(denoise: Any, dims: int, num: int = 20_000) -> np.ndarray:
    """Samples of class 0 by DDIM, [num, dims]."""
    start = GRID[0] * jr.normal(jr.key(0), (num, dims))
    run = jax.jit(lambda x: sample("ddim", denoise, x, GRID, cond=told(num)).x)
    return np.asarray(run(start))


def on_the_line(path: Path) -> None:
    """Densities of p(x | c) and p(x) p(c | x)^w, and histograms of samples."""
    law, points = line(), np.linspace(-3.2, 3.4, 600)
    x = jnp.asarray(points)[:, None]
    plain = np.exp(np.asarray(law.log_prob(x, 1e-4)))
    given = np.exp(np.asarray(law.given(0).log_prob(x, 1e-4)))
    meant = plain * np.exp(WEIGHT * np.asarray(law.log_class(x, 1e-4, told(len(x)))))
    meant /= meant.sum() * (points[1] - points[0])
    start = GRID[0] * jr.normal(jr.key(1), (10_000, 1))
    experts = steering.guided(law.denoise, WEIGHT)
    steer = partial(steering.steer, jr.key(2), experts, sigmas=GRID, cond=told(10_000))
    found = jax.jit(steer)(x=start)
    levels = guidance.interval(WEIGHT, 0.2, 2.0)
    guided = {
        "classifier_free": guidance.classifier_free(law.denoise, WEIGHT),
        "classifier_free, in an interval": guidance.classifier_free(
            law.denoise, levels
        ),
        "zero_star": guidance.zero_star(law.denoise, WEIGHT),
    }
    rows: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
        name: (drawn(denoise, 1), None) for name, denoise in guided.items()
    }
    rows["steer (SMC)"] = (np.asarray(found.x), np.exp(np.asarray(found.log_weights)))
    figure, axes = plt.subplots(1, 4, figsize=(13, 3), sharey=True)
    for axis, (name, (samples, weights)) in zip(axes, rows.items(), strict=True):
        bins = np.linspace(-3.2, 3.4, 90)
        options = {"density": True, "color": "0.75", "label": "samples"}
        axis.hist(samples[:, 0], bins, weights=weights, **options)
        axis.plot(points, given, "C0--", lw=1.2, label="p(x | c)")
        axis.plot(points, meant, "C3", lw=1.5, label="p(x) p(c | x)^4, normalised")
        axis.set_title(name, fontsize=10)
        axis.set_ylim(0, 1.6)
    axes[0].legend(fontsize=7, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def on_the_plane(path: Path) -> None:
    """Samples of each method over draws of the law that is meant."""
    law = ring()
    target = tilted(law, WEIGHT, 3_000, seed=1)
    x, weights = steered(law, WEIGHT)
    chosen = np.random.RandomState(0).choice(len(x), 1_500, p=weights / weights.sum())
    shown = {"p(x) p(c | x)^4, exact": target[:1_500]}
    for name, denoise in methods(law, WEIGHT).items():
        shown[name.split(",")[0] if "0.2" not in name else "in an interval"] = drawn(
            denoise, 2, 1_500
        )
    shown["steer (SMC)"] = x[chosen]
    figure, axes = plt.subplots(2, 5, figsize=(13, 5.4), sharex=True, sharey=True)
    for axis, (name, samples) in zip(axes.ravel(), shown.items(), strict=False):
        axis.scatter(*target.T, s=1, color="0.85")
        axis.scatter(*samples.T, s=2, color="C3", alpha=0.5)
        axis.set_title(name, fontsize=9)
        axis.set_xlim(-2.6, 3.2)
        axis.set_ylim(-2.6, 2.6)
        axis.set_aspect("equal")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    on_the_line(HERE / "guided_line.png")
    on_the_plane(HERE / "guided_plane.png")
