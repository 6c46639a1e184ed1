"""What a sampler adds to its network, beside other programs, in one run.

    OMP_NUM_THREADS=1 XLA_FLAGS="--xla_cpu_multi_thread_eigen=false \
        intra_op_parallelism_threads=1" taskset -c 1 \
        python -m benchmarks.overhead [--json=FILE]

The denoiser is that of a Gaussian with one variance, three operations, so that the time
is the sampler's. Images of 32x32x3 in float32, Karras levels. Peers are k-diffusion's
functions and diffusers' schedulers (`pip install score_sde[peers]`); beside them our
stochastic sampler against the same steps written by hand in one `lax.scan`, and against
diffrax's Euler along its Brownian tree. The sides take turns; medians are compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import score_sde as ss
from benchmarks import record
from benchmarks.turns import in_turns
from score_sde.arrays import example_keys, per_example
from score_sde.samplers import SAMPLERS, Sampler

VARIANCE = 0.25
SHAPE = (32, 32, 3)
PEERS = {
    "euler": ["k_diffusion sample_euler", "diffusers EulerDiscreteScheduler"],
    "heun": ["k_diffusion sample_heun", "diffusers HeunDiscreteScheduler"],
    "dpmpp_2m": [
        "k_diffusion sample_dpmpp_2m",
        "diffusers EDMDPMSolverMultistepScheduler",
    ],
    "unipc": ["diffusers UniPCMultistepScheduler"],
    "euler_ancestral": [
        "k_diffusion sample_euler_ancestral",
        "diffusers EulerAncestralDiscreteScheduler",
    ],
    "dpmpp_2m_sde": ["k_diffusion sample_dpmpp_2m_sde"],
}
Run = Callable[[], Any]


def denoise(x: Any, sigma: Any, cond: Any = None) -> Any:
    """Of N(0, VARIANCE), in any array library."""
    del cond
    return x * (VARIANCE / (VARIANCE + sigma**2))


def grid(num_steps: int) -> jax.Array:
    return ss.grids.karras(num_steps, sigma_min=0.002, sigma_max=80.0)


def ours(name: str, batch: int, num_steps: int) -> Run:
    sampler: Sampler = SAMPLERS[name]()
    sigmas, x = grid(num_steps), 80 * jr.normal(jr.key(0), (batch, *SHAPE))
    draw = jax.jit(lambda x, key: ss.sample(sampler, denoise, x, sigmas, key=key).x)
    key = jr.key(1)
    return lambda: draw(x, key).block_until_ready()


def by_hand(batch: int, num_steps: int) -> Run:
    """Ancestral Euler steps in one scan, with the same noise."""
    sigmas, x = grid(num_steps), 80 * jr.normal(jr.key(0), (batch, *SHAPE))

    @jax.jit
    def draw(x: jax.Array, key: jax.Array) -> jax.Array:
        keys = example_keys(key, batch)

        def step(x: jax.Array, now: Any) -> Any:
            number, sigma, sigma_next = now
            up = sigma_next * jnp.sqrt(1 - (sigma_next / sigma) ** 2)
            down = sigma_next**2 / sigma
            x = x + (x - denoise(x, sigma)) / sigma * (down - sigma)
            each = jax.vmap(jr.fold_in, in_axes=(0, None))(keys, number)
            return x + up * per_example(jr.normal, each, x), None

        steps = jnp.arange(num_steps), sigmas[:-1], sigmas[1:]
        return jax.lax.scan(step, x, steps)[0]

    key = jr.key(1)
    return lambda: draw(x, key).block_until_ready()


def by_brownian_tree(batch: int, num_steps: int) -> Run:
    """The reverse SDE in -sigma, by diffrax's Euler along its Brownian tree."""
    import diffrax
    import lineax

    sigmas, x = grid(num_steps), 80 * jr.normal(jr.key(0), (batch, *SHAPE))
    times = -sigmas[:-1]  # to the last level above 0

    @jax.jit
    def draw(x: jax.Array, key: jax.Array) -> Any:
        tree = diffrax.VirtualBrownianTree(
            times[0], times[-1], 1e-3, jax.ShapeDtypeStruct(x.shape, x.dtype), key
        )

        def drift(t: Any, x: Any, args: Any) -> Any:
            del args
            return 2 * (denoise(x, -t) - x) / -t

        def spread(t: Any, x: Any, args: Any) -> Any:
            del args
            one = lineax.IdentityLinearOperator(jax.ShapeDtypeStruct(x.shape, x.dtype))
            return jnp.sqrt(-2 * t) * one

        terms = diffrax.MultiTerm(
            diffrax.ODETerm(drift),
            diffrax.ControlTerm(spread, tree),
        )
        return diffrax.diffeqsolve(
            terms,
            diffrax.Euler(),
            times[0],
            times[-1],
            None,
            x,
            stepsize_controller=diffrax.StepTo(times),
            adjoint=diffrax.ForwardMode(),
        ).ys

    key = jr.key(1)
    return lambda: draw(x, key).block_until_ready()


def k_diffusion(name: str, batch: int, num_steps: int) -> Run:
    import torch
    from k_diffusion import sampling

    function = getattr(sampling, name)
    sigmas = torch.tensor(np.array(grid(num_steps)))
    x = 80 * torch.randn(batch, SHAPE[2], *SHAPE[:2])
    model = torch.nn.Module()
    model.forward = lambda x, sigma: denoise(x, sigma.reshape(-1, 1, 1, 1))  # type: ignore[method-assign,assignment]

    def draw() -> Any:
        with torch.inference_mode():
            return function(model, x, sigmas, disable=True)

    return draw


def diffusers(name: str, batch: int, num_steps: int) -> Run:
    import diffusers as library
    import torch

    options: dict[str, Any] = {"sigma_min": 0.002, "sigma_max": 80.0}
    if not name.startswith("EDM"):
        options = {"use_karras_sigmas": True} if "Ancestral" not in name else {}
    if "UniPC" in name:
        options["final_sigmas_type"] = "sigma_min"
    scheduler = getattr(library, name)(**options)
    start = 80 * torch.randn(batch, SHAPE[2], *SHAPE[:2])

    def draw() -> Any:
        scheduler.set_timesteps(num_steps)
        x = start
        with torch.inference_mode():
            for i, t in enumerate(scheduler.timesteps):
                given, sigma = scheduler.scale_model_input(x, t), scheduler.sigmas[i]
                out = given * (VARIANCE / (VARIANCE + sigma**2))
                x = scheduler.step(out, t, x).prev_sample
        return x

    return draw


def compared(batch: int, num_steps: int, repeat: int) -> list[dict[str, Any]]:
    """Rows of a table: microseconds a step of each side, and theirs over ours."""
    rows = []

    def row(name: str, sides: dict[str, Run]) -> None:
        seconds = in_turns(sides, repeat)
        medians = {name: float(np.median(s)) for name, s in seconds.items()}
        mine = medians.pop("ours")
        for peer, theirs in medians.items():
            rows.append(
                {
                    "sampler": name,
                    "batch": batch,
                    "peer": peer,
                    "ours_us": mine / num_steps * 1e6,
                    "theirs_us": theirs / num_steps * 1e6,
                    "ratio": theirs / mine,
                }
            )
            print(
                f"| {name} | {batch} | {peer} | {rows[-1]['ours_us']:.1f} | "
                f"{rows[-1]['theirs_us']:.1f} | {rows[-1]['ratio']:.2f} |",
                flush=True,
            )

    libraries = {"k_diffusion": k_diffusion, "diffusers": diffusers}
    for name, peers in PEERS.items():
        sides = {"ours": ours(name, batch, num_steps)}
        for peer in peers:
            library, function = peer.split()
            sides[peer] = libraries[library](function, batch, num_steps)
        row(name, sides)
    row(
        "euler_ancestral",
        {
            "ours": ours("euler_ancestral", batch, num_steps),
            "scan by hand": by_hand(batch, num_steps),
            "diffrax, Brownian tree": by_brownian_tree(batch, num_steps),
        },
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    print("| sampler | batch | peer | ours, us a step | theirs | ratio |")
    print("|---|---|---|---|---|---|")
    rows = compared(1, 50, given.repeat) + compared(64, 18, given.repeat)
    record.write(given.json, record.circumstances("torch") | {"rows": rows})


if __name__ == "__main__":
    main()
