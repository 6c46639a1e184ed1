"""The observed order of convergence of every sampler, as a table.

    python -m benchmarks.orders [--json=FILE]

Data are one Gaussian, whose flow is known. Order of the flow: noise switched off,
Karras levels from 80 to 0.002, 160 and 320 steps, largest error. Strong order: levels
from 5 to 0.05, 24 and 48 steps along one Brownian path per example, mean distance to
Euler's samples at 512, over 256 of them. The order is log2 of the ratio of two errors.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr

import score_sde as ss
from benchmarks import record
from score_sde.samplers import SAMPLERS, BrownianPath, Sampler

GAUSSIAN = ss.oracles.Gaussian(
    jnp.asarray([0.1, -0.2, 0.3]),
    jnp.asarray([[0.12, 0.05, -0.03], [0.05, 0.06, 0.02], [-0.03, 0.02, 0.2]]),
)


def quiet(sampler: Sampler) -> Sampler | None:
    """The sampler without its noise, or None if it has no such setting."""
    fields = {field.name for field in dataclasses.fields(sampler)}
    if sampler.stochastic:
        off = {name: 0.0 for name in ("eta", "s_churn") if name in fields}
        sampler = dataclasses.replace(sampler, **off)
    return None if sampler.stochastic else sampler


def flow_error(sampler: Sampler, num_steps: int) -> float:
    """Largest error of the flow map from level 80 to 0.002."""
    sigmas = ss.grids.karras(num_steps + 1, sigma_min=0.002, sigma_max=80.0)[:-1]
    x = sigmas[0] * jr.normal(jr.key(0), (20, 3))
    out = jax.jit(lambda x: ss.sample(sampler, GAUSSIAN.denoise, x, sigmas).x)(x)
    return float(jnp.abs(out - GAUSSIAN.flow(x, sigmas[0], sigmas[-1])).max())


def along_one_path(sampler: Sampler, num_steps: int) -> jax.Array:
    """Samples, each of a Brownian path and a start of its own."""
    path = BrownianPath(jr.key(1), sigma_max=5.0)
    sigmas = ss.grids.karras(num_steps + 1, sigma_min=0.05, sigma_max=5.0)[:-1]
    # Of as few as 24 the mean gap is off by half an order.
    x = sigmas[0] * jr.normal(jr.key(0), (256, 3))
    return jax.jit(
        lambda x: ss.sample(sampler, GAUSSIAN.denoise, x, sigmas, noise=path).x
    )(x)


def order(coarse: float, fine: float) -> float:
    return math.log2(coarse / fine)


def measured(name: str, limit: jax.Array) -> dict[str, float | str]:
    """The orders of one sampler that it has."""
    sampler, row = SAMPLERS[name](), {"sampler": name}
    without = quiet(sampler)
    if without is not None:
        errors = [flow_error(without, n) for n in (160, 320)]
        row |= {"flow": order(*errors), "error": errors[1]}
    if any(f.name == "eta" for f in dataclasses.fields(sampler)) and sampler.stochastic:
        gaps = (jnp.abs(along_one_path(sampler, n) - limit).mean() for n in (24, 48))
        row["strong"] = order(*map(float, gaps))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    limit = along_one_path(SAMPLERS["euler_ancestral"](), 512)
    print("| sampler | order of the flow | error at 320 steps | strong order |")
    print("|---|---|---|---|")
    rows = []
    for name in SAMPLERS:
        if name in ("dpm_adaptive", "adaptive_sde"):
            continue  # they take no grid
        row = measured(name, limit)
        rows.append(row)
        flow = f"{row['flow']:.2f} | {row['error']:.1e}" if "flow" in row else "|"
        strong = f"{row['strong']:.2f}" if "strong" in row else ""
        print(f"| {name} | {flow} | {strong} |", flush=True)
    record.write(arguments.json, record.circumstances() | {"rows": rows})


if __name__ == "__main__":
    main()
