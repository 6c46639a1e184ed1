"""What guidance does to the law: every method beside the laws that are known.

    python -m benchmarks.guidance [--json=FILE]

Six Gaussians on a ring, whose class is likely at one side and unlikely at the other.
10,000 samples of each method at each weight w, by 100 steps of DDIM, are compared with
p(x given c), and with p(x) p(c given x)^w, from which guidance is meant to sample:
sliced Wasserstein distance to both; error of the mean, in standard deviations, and
relative error of the covariance, of the second; and diversity, the spread over that of
p(x given c). The first row of a weight is exact draws, the floor. Minutes on two cores.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from benchmarks import record
from benchmarks.laws import errors, moments, sliced_distance
from score_sde import guidance, steering
from score_sde.oracles import LabelledMixture
from score_sde.samplers import grids, sample

NUM, WEIGHTS = 10_000, (1.0, 2.0, 4.0, 8.0)
LAMBDAS = {1.0: 0.25, 2.0: 0.5, 4.0: 0.75, 8.0: 1.0}
"""Weight of the others -> lambda of CFG++, whose range is 0 to 1."""
GRID = grids.karras(100, sigma_min=0.01, sigma_max=80.0)


def ring(spread: float = 0.3) -> LabelledMixture:
    """Six Gaussians on a ring; class 0 is likely at its right, class 1 at its left."""
    angles = 2 * np.pi * np.arange(6) / 6
    means = 1.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    right = 0.5 + 0.45 * np.cos(angles)
    return LabelledMixture(
        jnp.asarray(means),
        jnp.asarray(np.tile(spread**2 * np.eye(2)[None], (6, 1, 1))),
        jnp.ones(6),
        jnp.asarray(np.stack([right, 1 - right])),
    )


def told(count: int) -> dict[str, Any]:
    return {"label": jnp.zeros(count, int)}


def methods(law: LabelledMixture, weight: float) -> dict[str, Any]:
    """name -> denoiser, for one weight."""
    denoise, worse = law.denoise, ring(0.45).denoise
    levels = guidance.interval(weight, 0.2, 2.0)
    return {
        "classifier_free": guidance.classifier_free(denoise, weight),
        "classifier_free, 0.2 < sigma <= 2": guidance.classifier_free(denoise, levels),
        "projected (APG), eta 0": guidance.adaptive_projected(denoise, weight),
        "projected, momentum -0.5, bound 0.5": guidance.adaptive_projected(
            denoise, weight, momentum=-0.5, bound=0.5
        ),
        "zero_star (CFG-Zero*)": guidance.zero_star(denoise, weight),
        "tangential": guidance.tangential(denoise, weight),
        "plus_plus (CFG++)": guidance.plus_plus(denoise, LAMBDAS[weight], grid=GRID),
        "auto, by a blurred model": guidance.autoguidance(denoise, worse, weight),
    }


def tilted(law: LabelledMixture, weight: float, count: int, seed: int) -> np.ndarray:
    """Exact draws of p(x) p(c given x)^weight, by rejection."""
    key_draw, key_keep = jr.split(jr.key(seed))
    x = law.sample(key_draw, 12 * count)
    keep = jnp.exp(weight * law.log_class(x, 1e-4, told(len(x))))
    kept = np.asarray(x)[np.asarray(jr.uniform(key_keep, keep.shape) < keep)]
    assert len(kept) >= count, (weight, len(kept))
    return kept[:count]


def steered(law: LabelledMixture, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Particles of four groups and their weights."""
    num = NUM // 4

    def one(key: Any) -> Any:
        key_start, key = jr.split(key)
        x = GRID[0] * jr.normal(key_start, (num, 2))
        experts = steering.guided(law.denoise, weight)
        found = steering.steer(key, experts, x, GRID, cond=told(num))
        return found.x, jnp.exp(found.log_weights)

    x, weights = jax.jit(lambda keys: jax.lax.map(one, keys))(jr.split(jr.key(3), 4))
    return np.asarray(x).reshape(-1, 2), np.asarray(weights).ravel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    law = ring()
    given = np.asarray(law.given(0).sample(jr.key(1), NUM))
    start = GRID[0] * jr.normal(jr.key(0), (NUM, 2))
    rows: list[dict[str, Any]] = []
    for weight in WEIGHTS:
        target = tilted(law, weight, NUM, seed=1)
        drawn: dict[str, Any] = {"exact": (tilted(law, weight, NUM, seed=2), None)}
        for name, denoise in methods(law, weight).items():
            run = jax.jit(partial(_drawn, denoise))
            drawn[name] = (np.asarray(run(start)), None)
        drawn["steer (SMC), 4 x 2,500 particles"] = steered(law, weight)
        print(f"weight {weight}:   to p(x|c)  to p(x) p(c|x)^w  mean  cov.  diversity")
        for name, (x, weights) in drawn.items():
            row = {
                "weight": weight,
                "method": name,
                "to_conditional": sliced_distance(x, given, weights),
                "to_tilted": sliced_distance(x, target, weights),
                **errors(moments(x, weights), moments(target)),
                "diversity": _spread(moments(x, weights)) / _spread(moments(given)),
            }
            rows.append(row)
            print(f"  {name:<38}", *(f"{v:7.3f}" for v in list(row.values())[2:]))
    about = {"samples": NUM, "steps": len(GRID) - 1, "lambdas": LAMBDAS, "rows": rows}
    record.write(arguments.json, record.circumstances() | about)


def _drawn(denoise: Any, x: Any) -> Any:
    return sample("ddim", denoise, x, GRID, cond=told(len(x))).x


def _spread(found: tuple[np.ndarray, np.ndarray]) -> float:
    return float(np.sqrt(np.trace(found[1])))


if __name__ == "__main__":
    main()
