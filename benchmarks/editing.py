"""Restoration beside the exact posterior, which is known for mixtures of Gaussians.

    python -m benchmarks.editing [--json=FILE]

Two priors in four dimensions, two measured directions, noise 0.1. For each method: how
far the mean of 20,000 results is from the posterior's, in its standard deviations, the
largest of any coordinate; the relative error of the covariance; the total variation
between proportions of components. And the evaluations of the network per call.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from score_sde import editing, guidance
from score_sde.measurements import Matrix
from score_sde.oracles import GaussianMixture
from score_sde.samplers import SAMPLERS, grids, sample

NUM, NOISE = 20_000, 0.1
MEASURED = np.asarray([[1.0, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, -0.5]])
Y = np.asarray([0.6, -0.2])


def priors() -> dict[str, GaussianMixture]:
    """One Gaussian with unequal axes, and three of them."""
    random = np.random.RandomState(0)
    factors = random.normal(size=(3, 4, 4)) * 0.35
    covariances = factors @ factors.transpose(0, 2, 1) + 0.01 * np.eye(4)
    means = random.normal(size=(3, 4)) * 0.8
    weights = np.asarray([0.3, 0.3, 0.4])
    made = {
        "gaussian": (means[:1], covariances[:1], np.ones(1)),
        "mixture": (means, covariances, weights),
    }
    return {n: GaussianMixture(*map(jnp.asarray, a)) for n, a in made.items()}


def posterior(prior: GaussianMixture) -> GaussianMixture:
    """The mixture of the components' posteriors, weighted by their evidence."""
    rows = []
    for mean, covariance, weight in zip(
        *map(np.asarray, (prior.means, prior.covariances, prior.weights)), strict=True
    ):
        gram = MEASURED @ covariance @ MEASURED.T + NOISE**2 * np.eye(2)
        gain = np.linalg.solve(gram, MEASURED @ covariance).T
        gap = Y - MEASURED @ mean
        evidence = np.exp(-0.5 * gap @ np.linalg.solve(gram, gap))
        rows.append(
            (
                mean + gain @ gap,
                covariance - gain @ MEASURED @ covariance,
                weight * evidence / np.sqrt(np.linalg.det(gram)),
            )
        )
    means, covariances, weights = map(np.stack, zip(*rows, strict=True))
    return GaussianMixture(*map(jnp.asarray, (means, covariances, weights)))


def methods(prior: GaussianMixture, sigmas: Any) -> dict[str, tuple[str, Any]]:
    """name -> (sampler, denoiser)."""
    denoise, measurement, y = prior.denoise, Matrix(jnp.asarray(MEASURED)), Y[None]
    spread = float(jnp.sqrt(jnp.trace(prior.covariance()) / 4))
    noise = {"noise_std": NOISE}

    def matched(num_iterations: int) -> Any:
        return editing.moment_matching(
            denoise, measurement, y, num_iterations=num_iterations, **noise
        )

    replaced = editing.replace(denoise, measurement, y)
    return {
        "replace": ("heun", replaced),
        "replace, repaint": ("repaint", replaced),
        "dps": ("euler", editing.dps(denoise, measurement, y, sigmas=sigmas, step=0.1)),
        "pseudo_inverse": (
            "heun",
            editing.pseudo_inverse(denoise, measurement, y, sigma_data=spread, **noise),
        ),
        "moment_matching, 1 iteration": ("heun", matched(1)),
        "moment_matching, 2 iterations": ("heun", matched(2)),
    }


def errors(samples: np.ndarray, exact: GaussianMixture) -> dict[str, float]:
    covariance = np.asarray(exact.covariance())
    gap = np.abs(samples.mean(0) - exact.mean()) / np.sqrt(np.diag(covariance))
    off = np.linalg.norm(np.cov(samples.T) - covariance) / np.linalg.norm(covariance)
    component = np.argmax(exact.log_joint(jnp.asarray(samples), 1e-3), axis=1)
    weights = np.asarray(exact.weights / exact.weights.sum())
    share = np.bincount(component, minlength=len(weights)) / len(samples)
    return {
        "mean": float(gap.max()),
        "covariance": float(off),
        "proportions": float(0.5 * np.abs(share - weights).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    sigmas = grids.karras(100, sigma_min=0.005, sigma_max=200.0)
    x = sigmas[0] * jr.normal(jr.key(0), (NUM, 4))
    rows: dict[str, dict[str, Any]] = {}
    for name, prior in priors().items():
        exact = posterior(prior)
        drawn: dict[str, Callable[[], Any]] = {
            "exact": lambda e=exact: e.sample(jr.key(1), NUM)
        }
        print(f"{name}: error of     mean  covariance  proportions  evaluations")
        for method, (sampler, denoise) in methods(prior, sigmas).items():
            drawn[method] = lambda s=sampler, d=denoise: jax.jit(
                lambda x: sample(SAMPLERS[s](), d, x, sigmas, key=jr.key(2)).x
            )(x)
        evals = {
            m: guidance.network_evals(d, 1.0)
            for m, (_, d) in methods(prior, sigmas).items()
        }
        for method, draw in drawn.items():
            row: dict[str, Any] = dict(errors(np.asarray(draw()), exact))
            row["evals_per_call"] = int(evals.get(method, 0))
            rows.setdefault(name, {})[method] = row
            print(
                f"  {method:<30} {row['mean']:.3f}  {row['covariance']:.3f}  "
                f"{row['proportions']:.3f}  {row['evals_per_call']}"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
