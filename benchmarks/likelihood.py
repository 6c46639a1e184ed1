"""Time of a likelihood beside the usual ways, in one run with one network.

    OMP_NUM_THREADS=1 XLA_FLAGS="--xla_cpu_multi_thread_eigen=false \
        intra_op_parallelism_threads=1" taskset -c 1 \
        python -m benchmarks.likelihood [--json=FILE]

- scipy (Song et al. 2021): RK45 on the host in float64, one step size for the batch,
  two compiled calls per evaluation, for the drift and for its divergence by a backward
  pass.
- torchdiffeq, if it is installed (extra `peers`): dopri5 on the batch, drift and
  divergence from one forward and one backward pass.

All sides have the same weights, images and probes, and the VP SDE from t = 1e-5 to 1;
that their scores agree is checked first. They take turns, and medians are compared:
once at the same tolerance, and once each at the loosest tolerance, or with the fewest
steps, whose root mean square error is at most 1e-4 bits/dim. The reference is Dopri5 at
1e-6. `dopri5` and `multistep` are ours. On a GPU (`--batch=256`) every product is in
float32 on all sides, without TF32; the host of the first has its data sent over and
back for every evaluation.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from scipy.integrate import solve_ivp

import score_sde as ss
from benchmarks import record
from benchmarks.turns import in_turns
from score_sde.arrays import example_keys, in_one_piece
from score_sde.run.likelihoods import even_in_log_sigma
from score_sde.types import Array

SDE, SEED = ss.VP(), 0
ON_GPU = jax.default_backend() == "gpu"
Weights = list[tuple[np.ndarray, np.ndarray]]
Run = Callable[[], tuple[np.ndarray, float]]
"""-> (nats, evaluations)."""
GOAL, REFERENCE = 1e-4, 1e-6
"""Root mean square error in bits/dim that all sides must reach; a tolerance."""
TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
STEPS = (11, 15, 23, 31, 39, 47, 55, 63, 79, 95, 111, 127, 159, 191)


def make_weights(channels: int) -> Weights:
    """Five 3x3 convolutions [3, 3, in, out], and what each adds of the noise [out]."""
    random = np.random.RandomState(0)
    sizes = [3, channels, channels, channels, channels, 3]
    return [
        (
            random.normal(size=(3, 3, a, b)).astype(np.float32) / math.sqrt(9 * a),
            random.normal(size=b).astype(np.float32),
        )
        for a, b in zip(sizes[:-1], sizes[1:], strict=True)
    ]


def in_jax(weights: Weights) -> Any:
    """score(xt, t) of EDM's preconditioning around the convolutions."""

    def network(x: Array, noise: Array, cond: Any = None) -> Any:
        del cond
        for i, (kernel, shift) in enumerate(weights):
            x = jax.nn.silu(x) if i else x
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = x + noise[:, None, None, None] * shift
        return x

    return ss.make_score(ss.make_denoiser(network, ss.precondition.edm), SDE)


def to_torch(a: np.ndarray) -> Any:
    """A tensor where PyTorch computes."""
    import torch

    return torch.tensor(a, device="cuda" if ON_GPU else "cpu")


def in_torch(weights: Weights) -> Any:
    """The same score of [batch, channels, height, width]."""
    import torch
    from torch.nn import functional

    there = [
        (to_torch(k).permute(3, 2, 0, 1).contiguous(), to_torch(s)) for k, s in weights
    ]
    rate, low = SDE.beta_max - SDE.beta_min, SDE.beta_min

    def score(xt: Any, t: Any) -> Any:
        t = torch.as_tensor(t, dtype=torch.float32, device=xt.device)
        log_alpha = -0.5 * (low * t + 0.5 * rate * t**2)
        alpha, sigma = torch.exp(log_alpha), torch.sqrt(torch.expm1(-2 * log_alpha))
        x, total = xt / alpha, sigma**2 + 0.25
        h, noise = x / torch.sqrt(total), torch.log(sigma) / 4
        for i, (kernel, shift) in enumerate(there):
            h = functional.silu(h) if i else h
            h = functional.conv2d(h, kernel, padding=1)
            h = h + noise * shift[:, None, None]
        denoised = 0.25 / total * x + 0.5 * sigma / torch.sqrt(total) * h
        return (alpha * denoised - xt) / (alpha * sigma) ** 2

    return score


def probes(x: np.ndarray) -> np.ndarray:
    """Those that `log_prob` draws."""
    shape = (1, *x.shape[1:])
    draw = jax.vmap(lambda k: in_one_piece(jr.rademacher, k, shape, jnp.float32)[0])
    return np.asarray(draw(example_keys(jr.key(SEED), len(x))))


def adaptive(score: Any, x: np.ndarray, solver: str | None, tolerance: float) -> Run:
    return ours(score, x, solver=solver, rtol=tolerance, atol=tolerance)


def on_grid(score: Any, x: np.ndarray, num_steps: float) -> Run:
    times = even_in_log_sigma(SDE, int(num_steps))
    return ours(score, x, solver="multistep", times=times)


def ours(score: Any, x: np.ndarray, **options: Any) -> Run:
    solve = jax.jit(
        lambda x: ss.log_prob(x, sde=SDE, score=score, key=jr.key(SEED), **options)
    )

    def run() -> tuple[np.ndarray, float]:
        out = solve(x)
        return np.asarray(out.nats), float(out.num_evals.max())

    return run


def scipy(score: Any, x: np.ndarray, v: np.ndarray, tolerance: float) -> Run:
    flow = jax.jit(lambda x, t: ss.probability_flow(x, t, sde=SDE, score=score))

    @jax.jit
    def divergence(x: Array, t: Array) -> Array:
        gradient = jax.grad(lambda x: (flow(x, t) * v).sum())(x)
        return (gradient * v).sum(tuple(range(1, x.ndim)))

    def slope(t: float, y: np.ndarray) -> np.ndarray:
        now = jnp.asarray(y[: x.size].reshape(x.shape), jnp.float32)
        times = jnp.full(len(x), t, jnp.float32)
        drift, trace = flow(now, times), divergence(now, times)
        return np.concatenate([np.asarray(drift).ravel(), np.asarray(trace)])

    def run() -> tuple[np.ndarray, float]:
        start = np.concatenate([np.asarray(x, np.float64).ravel(), np.zeros(len(x))])
        ends = (SDE.t_min, SDE.t_max)
        out = solve_ivp(
            slope, ends, start, method="RK45", rtol=tolerance, atol=tolerance
        )
        latent = jnp.asarray(out.y[: x.size, -1].reshape(x.shape), jnp.float32)
        return np.asarray(ss.prior_log_prob(latent, sde=SDE)) + out.y[
            x.size :, -1
        ], out.nfev

    return run


def torchdiffeq(score: Any, x: np.ndarray, v: np.ndarray, tolerance: float) -> Run:
    import torch
    from torchdiffeq import odeint

    start, probe = (to_torch(a).permute(0, 3, 1, 2).contiguous() for a in (x, v))
    calls = []

    def slope(t: Any, state: Any) -> Any:
        calls.append(1)
        beta = SDE.beta_min + t * (SDE.beta_max - SDE.beta_min)
        with torch.enable_grad():
            now = state[0].detach().requires_grad_(True)
            drift = -0.5 * beta * (now + score(now, t))
            gradient = torch.autograd.grad((drift * probe).sum(), now)[0]
        return drift.detach(), (gradient * probe).sum((1, 2, 3))

    def run() -> tuple[np.ndarray, float]:
        calls.clear()
        with torch.no_grad():
            last, gained = odeint(
                slope,
                (start, start.new_zeros(len(x))),
                start.new_tensor([SDE.t_min, SDE.t_max]),
                method="dopri5",
                rtol=tolerance,
                atol=tolerance,
            )
        latent = last[-1].permute(0, 2, 3, 1).cpu().numpy()
        prior = np.asarray(ss.prior_log_prob(jnp.asarray(latent), sde=SDE))
        return prior + gained[-1].cpu().numpy(), len(calls)

    return run


def check_equal(score: Any, other: Any, x: np.ndarray) -> None:
    """Raises AssertionError if the two scores of x differ by more than rounding."""
    for t in (0.01, 0.3, 1.0):
        mine = np.asarray(score(jnp.asarray(x), jnp.full(len(x), t)))
        theirs = other(to_torch(x).permute(0, 3, 1, 2), t).permute(0, 2, 3, 1)
        scale = np.abs(mine).max()
        np.testing.assert_allclose(
            mine, theirs.cpu().numpy(), rtol=0, atol=1e-5 * scale
        )


def bits_of(run: Run, num_dims: int) -> tuple[np.ndarray, float]:
    """Bits/dim of each image, and evaluations."""
    nats, evals = run()
    return np.asarray(ss.bits_per_dim(nats, num_dims), np.float64), float(evals)


def timed(
    sides: Mapping[str, Run], reference: np.ndarray, num_dims: int, repeat: int
) -> dict[str, dict[str, Any]]:
    """Seconds, evaluations and errors of each side."""
    made = {name: bits_of(run, num_dims) for name, run in sides.items()}
    seconds = in_turns(dict(sides), repeat)
    return {
        name: {
            "seconds": float(np.median(seconds[name])),
            "all_seconds": seconds[name],
            "evaluations": evals,
            "rms_error": rms(bits - reference),
            "error_of_mean": float((bits - reference).mean()),
        }
        for name, (bits, evals) in made.items()
    }


def rms(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def cheapest(
    make: Callable[[float], Run],
    choices: Sequence[float],
    reference: np.ndarray,
    num_dims: int,
) -> float:
    """The first choice, of ascending cost, whose error is at most `GOAL`."""
    for choice in choices:
        if rms(bits_of(make(choice), num_dims)[0] - reference) <= GOAL:
            return choice
    raise SystemExit(f"no choice of {choices} has an error of {GOAL:g} bits/dim.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")
    random = np.random.RandomState(1)
    shape = (given.batch, given.size, given.size, 3)
    x = random.uniform(-1, 1, shape).astype(np.float32)
    v = probes(x)
    weights = make_weights(given.channels)
    score, num_dims = in_jax(weights), math.prod(x.shape[1:])
    makers: dict[str, Callable[[float], Run]] = {
        "dopri5": partial(adaptive, score, x, None),
        "multistep": partial(adaptive, score, x, "multistep"),
        "scipy": partial(scipy, score, x, v),
    }
    if importlib.util.find_spec("torchdiffeq"):
        import torch

        torch.set_num_threads(1)
        torch.backends.cudnn.allow_tf32 = False
        other = in_torch(weights)
        check_equal(score, other, x)
        makers["torchdiffeq"] = partial(torchdiffeq, other, x, v)
    reference, _ = bits_of(makers["dopri5"](REFERENCE), num_dims)
    nominal = {name: make(given.tolerance) for name, make in makers.items()}
    grid = partial(on_grid, score, x)
    chosen = {
        name: cheapest(make, TOLERANCES, reference, num_dims)
        for name, make in makers.items()
    }
    chosen["multistep_grid"] = cheapest(grid, STEPS, reference, num_dims)
    makers["multistep_grid"] = grid
    equal = {name: makers[name](choice) for name, choice in chosen.items()}
    found = timed(nominal, reference, num_dims, given.repeat)
    result = record.circumstances("diffrax", "scipy") | {
        "device": jax.devices()[0].device_kind,
        "options": {k: v for k, v in vars(given).items() if k != "json"},
        "equal_tolerance": found,
        "equal_error": {
            name: {"tolerance_or_steps": chosen[name], **row}
            for name, row in timed(equal, reference, num_dims, given.repeat).items()
        },
    }
    print(json.dumps(result))
    record.write(given.json, result)


if __name__ == "__main__":
    main()
