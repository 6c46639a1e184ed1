"""Restoration beside the exact posterior, which is known for mixtures of Gaussians.

    python -m benchmarks.restoration [--json=FILE]

Two priors in four dimensions, of which two directions are measured with noise 0, 0.05
and 0.3. For each method, at 10, 20, 50 and 100 evaluations of the network for a sample:
error of the mean of 4,000 samples, in standard deviations of the posterior, and
relative error of their covariance; exact draws are the floor. And simulation-based
calibration (Talts et al. 2018): 256 pictures drawn from the prior, each measured, each
restored 31 times. The rank of the picture among its restorations is uniform if they are
draws of the posterior; p is the probability of the ranks if it is, by chi-squared of 8
bins, the least of the four coordinates' times four. Minutes on two cores.
"""

from __future__ import annotations

import argparse
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from benchmarks import record
from benchmarks.laws import errors, moments
from score_sde import editing, steering
from score_sde.editing import METHODS
from score_sde.evaluation import posterior_ranks
from score_sde.measurements import Matrix
from score_sde.oracles import GaussianMixture
from score_sde.samplers import grids, sample

NUM, BUDGETS, NOISES = 4_000, (10, 20, 50, 100), (0.0, 0.05, 0.3)
MEASURED = np.asarray([[1.0, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, -0.5]])
Y = np.asarray([0.6, -0.2])
PICTURES, DRAWS, BINS = 256, 31, 8
COST: dict[str, tuple[str, int, dict[str, Any]]] = {
    "replace": ("replace", 1, {}),
    "repaint, 5 times": ("repaint", 5, {"repeats": 5}),
    "dps, step 0.1": ("dps", 2, {"step": 0.1}),
    "pseudo_inverse": ("pseudo_inverse", 2, {}),
    "moment_matching": ("moment_matching", 3, {}),
    "moment_matching, 2 iterations": ("moment_matching", 4, {"num_iterations": 2}),
    "ddrm": ("ddrm", 1, {}),
    "diffpir": ("diffpir", 1, {}),
    "diffpir, strength 1": ("diffpir", 1, {"strength": 1.0, "zeta": 1.0}),
    "flow_dps": ("flow_dps", 1, {"rate": 0.5}),
    "daps, 5 Euler steps": ("daps", 5, {}),
    "daps, 1 Euler step": ("daps", 1, {"ode_steps": 1}),
    "red_diff": ("red_diff", 1, {}),
}
"""Row -> method, evaluations of the network a step, options that are not defaults."""


def priors() -> dict[str, GaussianMixture]:
    """One Gaussian with unequal axes, three times over, and three of them."""
    random = np.random.RandomState(0)
    factors = random.normal(size=(3, 4, 4)) * 0.35
    covariances = factors @ factors.transpose(0, 2, 1) + 0.01 * np.eye(4)
    means = random.normal(size=(3, 4)) * 0.8
    weights = np.asarray([0.3, 0.3, 0.4])
    alike = (np.repeat(a[:1], 3, axis=0) for a in (means, covariances))
    made = {"gaussian": (*alike, weights), "mixture": (means, covariances, weights)}
    return {n: GaussianMixture(*map(jnp.asarray, a)) for n, a in made.items()}


def posterior(prior: GaussianMixture, noise: float, y: np.ndarray) -> GaussianMixture:
    """The mixture of the components' posteriors, weighted by their evidence."""
    parts = map(np.asarray, (prior.means, prior.covariances, prior.weights))
    rows = []
    for mean, covariance, weight in zip(*parts, strict=True):
        gram = MEASURED @ covariance @ MEASURED.T + noise**2 * np.eye(2)
        gain, gap = np.linalg.solve(gram, MEASURED @ covariance).T, y - MEASURED @ mean
        evidence = np.exp(-0.5 * gap @ np.linalg.solve(gram, gap))
        evidence = weight * evidence / np.sqrt(np.linalg.det(gram))
        rows.append(
            (mean + gain @ gap, covariance - gain @ MEASURED @ covariance, evidence)
        )
    stacked = (jnp.asarray(np.stack(a)) for a in zip(*rows, strict=True))
    return GaussianMixture(*stacked)


def restored(row: str, sigmas: Any, prior: Any, noise: Any, y: Any, start: Any) -> Any:
    """Samples by one method, for whatever prior, noise and measurement."""
    name, _, options = COST[row]
    spread = jnp.sqrt(jnp.trace(prior.covariance()) / 4)
    if name in ("pseudo_inverse", "daps"):
        options = options | {"sigma_data": spread}
    method, known = partial(METHODS[name], **options), Matrix(jnp.asarray(MEASURED))
    made = editing.restore_by(
        method, prior.denoise, known, y, noise_std=noise, grid=sigmas
    )
    x = sigmas[0] * start
    return sample(made.sampler or "ddim", made.denoise, x, sigmas, key=jr.key(2)).x


def grid(budget: int, cost: int) -> Any:
    return grids.karras(max(1, budget // cost), sigma_min=0.02, sigma_max=80.0)


def by_particles(prior: GaussianMixture, noise: float, budget: int) -> Any:
    """Samples drawn by their weights, tilted by the likelihood of y."""

    def reward(x: Any) -> Any:
        gap = jnp.asarray(Y)[None] - x @ jnp.asarray(MEASURED).T
        return -0.5 * (gap**2).sum(1) / noise**2

    sigmas = grid(budget, 1)
    start = sigmas[0] * jr.normal(jr.key(0), (NUM, 4))
    experts = steering.tempered(prior.denoise, 1.0)
    run = jax.jit(
        lambda x: steering.steer(jr.key(1), experts, x, sigmas, reward=reward)
    )
    return np.asarray(steering.resample(jr.key(2), run(start)))


def calibration(run: Any, prior: GaussianMixture, noise: float) -> float:
    """p of uniform ranks, of 256 pictures among 31 restorations each."""
    x0 = prior.sample(jr.key(5), PICTURES)
    n = jr.normal(jr.key(6), (PICTURES, 2))
    y = x0 @ jnp.asarray(MEASURED).T + noise * n
    start = jr.normal(jr.key(7), (PICTURES * DRAWS, 4))
    found = np.asarray(run(prior, noise, jnp.repeat(y, DRAWS, axis=0), start))
    found = found.reshape(PICTURES, DRAWS, 4)
    return posterior_ranks(x0, found, num_bins=BINS).p_value


def exact_calibration(prior: GaussianMixture, noise: float) -> float:
    """The same of exact draws of each posterior."""
    x0 = np.asarray(prior.sample(jr.key(5), PICTURES))
    n = np.asarray(jr.normal(jr.key(6), (PICTURES, 2)))
    laws = [posterior(prior, noise, y) for y in x0 @ MEASURED.T + noise * n]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *laws)
    draw = jax.jit(jax.vmap(lambda law, key: law.sample(key, DRAWS)))
    found = draw(stacked, jr.split(jr.key(8), PICTURES))
    return posterior_ranks(x0, found, num_bins=BINS).p_value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    made, start = priors(), jr.normal(jr.key(0), (NUM, 4))
    truth = {
        (name, noise): posterior(prior, noise, Y)
        for (name, prior), noise in itertools.product(made.items(), NOISES)
    }
    rows: list[dict[str, Any]] = []

    def keep(
        method: str, budget: int, x: dict[Any, Any], sbc: dict[str, float]
    ) -> None:
        for (name, noise), samples in x.items():
            law = truth[name, noise]
            exact = np.asarray(law.mean()), np.asarray(law.covariance())
            row = {"method": method, "evaluations": budget, "prior": name}
            row |= {"noise": noise, **errors(moments(np.asarray(samples)), exact)}
            rows.append(row | ({"sbc_p": sbc[name]} if noise == 0.3 and sbc else {}))
        mine = [r for r in rows if (r["method"], r["evaluations"]) == (method, budget)]
        cells = "  ".join(f"{r['mean']:.2f} {r['covariance']:.2f}" for r in mine)
        p = "  ".join(f"{v:.1e}" for v in sbc.values())
        print(f"{method:<30} {budget:>4}  {cells}  {p}", flush=True)

    print("mean and covariance off, for each prior and noise", [*truth])
    sbc = {name: exact_calibration(prior, 0.3) for name, prior in made.items()}
    keep(
        "exact draws",
        0,
        {k: law.sample(jr.key(9), NUM) for k, law in truth.items()},
        sbc,
    )
    for method, budget in itertools.product(COST, BUDGETS):
        run = jax.jit(partial(restored, method, grid(budget, COST[method][1])))
        y = jnp.asarray(Y)[None]
        x = {(n, s): run(made[n], jnp.asarray(s), y, start) for n, s in truth}
        ranks = (
            {n: calibration(run, prior, 0.3) for n, prior in made.items()}
            if budget == BUDGETS[-1]
            else {}
        )
        keep(method, budget, x, ranks)
    for budget in BUDGETS:
        x = {(n, s): by_particles(made[n], s, budget) for n, s in truth if s > 0}
        keep("steer (SMC), 4,000 particles", budget, x, {})
    about = {"samples": NUM, "pictures": PICTURES, "draws": DRAWS, "rows": rows}
    record.write(arguments.json, record.circumstances() | about)


if __name__ == "__main__":
    main()
