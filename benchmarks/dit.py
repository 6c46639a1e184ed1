"""The speed of training DiT: attention and memory, as shares of a matrix product.

    XLA_PYTHON_CLIENT_PREALLOCATE=false python -m benchmarks.dit [--json=FILE]

EDM's loss on latents of 32x32x4, its gradient, clipping, Adam and the moving average,
by DiT-B/2 of random weights. A row for each implementation of attention that the
machine has, with the inside of blocks kept and computed again. Operations a second are
three forward passes by the shapes of their products, given over those of a product of
large random matrices in the same run; `memory` is the most that was in use, where the
device says so.
"""

from __future__ import annotations

import argparse
import itertools
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

import score_sde as ss
from benchmarks import record
from benchmarks.turns import in_turns, matrix_rate
from score_sde.networks import DiT, from_linen
from score_sde.networks.flops import forward_flops
from score_sde.training.optimizer import Optimizer, make_optimizer
from score_sde.training.step import init_state, make_train_step, whole_batch_gradient

SHAPE = (32, 32, 4)


def training(module: DiT, batch: int) -> tuple[Callable[[], Any], int]:
    """(one step that waits for its end, operations of it)."""
    network = from_linen(module, SHAPE)
    optimizer = make_optimizer(
        Optimizer(learning_rate=1e-4, clip_norm=1.0), num_steps=1
    )
    x0 = jr.normal(jr.key(1), (batch, *SHAPE))

    def loss(key: Any, params: Any, rows: Any, context: Any) -> jax.Array:
        del context
        denoise = ss.make_denoiser(partial(network.apply, params), ss.precondition.edm)
        return ss.denoising_loss(
            key,
            denoise,
            rows["x0"],
            noise_levels=ss.noise_levels.LogNormal(),
            weight=ss.losses.edm,
        )

    step = make_train_step(
        whole_batch_gradient(loss),
        optimizer,
        seed=0,
        ema_halflife_steps=1_000,
        ema_rampup_ratio=math.inf,
    )
    params = network.init(jr.key(0))
    flops = 3 * batch * forward_flops(network, params, SHAPE)
    # Copies: the state is given away, and its average may not be its parameters.
    state = jax.tree.map(jnp.copy, init_state(params, optimizer))
    compiled, held = jax.jit(step, donate_argnums=0), [state]

    def run() -> float:
        held[0], metrics = compiled(held[0], {"x0": x0})
        return float(metrics["loss"])

    return run, flops


def row(
    module: DiT, batch: int, repeat: int, rate: float, **options: Any
) -> dict[str, Any]:
    """What a step takes, in the way of the options."""
    run, flops = training(module.clone(**options), batch)
    began = time.perf_counter()
    run()
    compiling = time.perf_counter() - began
    seconds = float(np.median(in_turns({"step": run}, repeat)["step"]))
    memory = jax.local_devices()[0].memory_stats() or {}
    return {
        **options,
        "compile_seconds": round(compiling, 1),
        "seconds_per_step": seconds,
        "images_per_second": batch / seconds,
        "tflops_per_second": flops / seconds / 1e12,
        "share_of_products": flops / seconds / rate,
        "memory": memory.get("peak_bytes_in_use"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden_size", type=int, default=768)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--side", type=int, default=8192, help="of the matrices")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    module = DiT(
        hidden_size=given.hidden_size,
        depth=given.depth,
        num_heads=given.hidden_size // 64,
        learn_sigma=False,
        dtype=given.dtype,
    )
    rate = matrix_rate(given.side)
    on_gpu = jax.default_backend() == "gpu"
    kinds = ("xla", "cudnn") if on_gpu and given.dtype == "bfloat16" else ("xla",)
    rows = []
    for attention, remat in itertools.product(kinds, (False, True)):
        options = {"attention": attention, "remat": remat}
        found = row(module, given.batch, given.repeat, rate, **options)
        rows.append(found)
        print(
            f"{attention:<6} remat {remat!s:<5} {found['images_per_second']:7.0f} "
            f"images/s {found['tflops_per_second']:.3g} TFLOP/s, "
            f"{found['share_of_products']:.0%} of a product",
            flush=True,
        )
    options = {k: v for k, v in vars(given).items() if k != "json"}
    device = jax.devices()[0].device_kind
    about = {"options": options, "device": device, "product_rate": rate, "rows": rows}
    record.write(given.json, record.circumstances("flax", "optax") | about)


if __name__ == "__main__":
    main()
