"""Time of a likelihood beside the usual way, in one run with one network.

    taskset -c 1 env XLA_FLAGS="--xla_cpu_multi_thread_eigen=false \
        intra_op_parallelism_threads=1" python -m benchmarks.likelihood [--json=FILE]

The usual way (Song et al. 2021): SciPy's RK45 on the host in float64, one step size for
the batch, two compiled calls per evaluation, for the drift and for its divergence by a
backward pass. Both sides have the same weights, images, probes and tolerances, and the
VP SDE from t = 1e-5 to 1; they take turns, and medians are compared.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from scipy.integrate import solve_ivp

import score_sde as ss
from score_sde import networks
from score_sde.arrays import example_keys
from score_sde.types import Array, Key

SDE = ss.VP()


def make_score(shape: tuple[int, ...], channels: int) -> Any:
    """A U-Net with random weights, none of them zero, as the score of the VP SDE."""
    network = networks.from_linen(networks.UNet(channels, blocks_per_level=1), shape)
    leaves, structure = jax.tree.flatten(network.init(jr.key(0)))
    keys = jr.split(jr.key(1), len(leaves))
    leaves = [
        a + 0.02 * jr.normal(k, a.shape, a.dtype)
        for a, k in zip(leaves, keys, strict=True)
    ]
    apply = partial(network.apply, jax.tree.unflatten(structure, leaves))
    return ss.make_score(ss.make_denoiser(apply, ss.precondition.edm), SDE)


def ours(score: Any, tolerance: float) -> Callable[[Array, Key], Any]:
    solve = jax.jit(
        lambda x, key: ss.log_prob(
            x, sde=SDE, score=score, key=key, rtol=tolerance, atol=tolerance
        )
    )

    def run(x: Array, key: Key) -> tuple[np.ndarray, float]:
        out = solve(x, key)
        return np.asarray(out.nats), float(out.num_evals.max())

    return run


def usual(score: Any, tolerance: float) -> Callable[[Array, Key], Any]:
    flow = jax.jit(lambda x, t: ss.probability_flow(x, t, sde=SDE, score=score))

    @jax.jit
    def divergence(x: Array, t: Array, v: Array) -> Array:
        gradient = jax.grad(lambda x: (flow(x, t) * v).sum())(x)
        return (gradient * v).sum(tuple(range(1, x.ndim)))

    def run(x: Array, key: Key) -> tuple[np.ndarray, float]:
        v = jax.vmap(lambda k: jr.rademacher(k, (1, *x.shape[1:]), x.dtype)[0])(
            example_keys(key, len(x))
        )

        def slope(t: float, y: np.ndarray) -> np.ndarray:
            now = jnp.asarray(y[: x.size].reshape(x.shape), x.dtype)
            times = jnp.full(len(x), t, x.dtype)
            drift, trace = flow(now, times), divergence(now, times, v)
            return np.concatenate([np.asarray(drift).ravel(), np.asarray(trace)])

        start = np.concatenate([np.asarray(x, np.float64).ravel(), np.zeros(len(x))])
        ends = (SDE.t_min, SDE.t_max)
        out = solve_ivp(
            slope, ends, start, method="RK45", rtol=tolerance, atol=tolerance
        )
        latent = jnp.asarray(out.y[: x.size, -1].reshape(x.shape), x.dtype)
        log_prior = np.asarray(ss.prior_log_prob(latent, sde=SDE))
        return log_prior + out.y[x.size :, -1], out.nfev

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    shape = (given.size, given.size, 3)
    score = make_score(shape, given.channels)
    x = jr.uniform(jr.key(2), (given.batch, *shape), minval=-1.0)
    sides = {f.__name__: f(score, given.tolerance) for f in (usual, ours)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    bits, evals = {}, {}
    for turn in range(given.repeat + 1):
        for name, run in sides.items():
            start = time.monotonic()
            nats, evals[name] = run(x, jr.key(3))
            bits[name] = np.asarray(ss.bits_per_dim(nats, math.prod(shape)))
            if turn:  # the first one compiles
                seconds[name].append(time.monotonic() - start)
    medians = {name: float(np.median(s)) for name, s in seconds.items()}
    result = {
        "seconds": medians,
        "all_seconds": seconds,
        "evaluations": evals,
        "speedup": medians["usual"] / medians["ours"],
        "largest_difference_bits_per_dim": float(
            np.abs(bits["usual"] - bits["ours"]).max()
        ),
    }
    print(json.dumps(result))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
