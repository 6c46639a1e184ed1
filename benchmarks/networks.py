"""EDM's network here beside the same network in PyTorch, in one run.

    OMP_NUM_THREADS=1 XLA_FLAGS="--xla_cpu_multi_thread_eigen=false \
        intra_op_parallelism_threads=1" taskset -c 1 \
        python -m benchmarks.networks [--json=FILE]

    XLA_PYTHON_CLIENT_PREALLOCATE=false python -m benchmarks.networks --arch=ddpmpp \
        --channels=128 --blocks=4 --batch=256 --dtype=bfloat16 --rows train

train           EDM's loss, its gradient, clipping, Adam and the moving average
heun            18 steps of Heun, 35 evaluations: one compiled program, a loop there
steps per call  seconds of a step alone over those of one of several in a call, in a
                loop and written out

Both sides have the same weights; that outputs, gradients and samples agree is checked
first, in float32. They take turns, and medians are compared. On a CPU one thread is
timed by what the process used, so that other programs count less. On a GPU the clock
runs until all is done; PyTorch has channels last, its compiler, fused Adam, autocast;
operations per second are given over those of a matrix product in the same run. Both
sides hold their memory at once: 512 images are too many for 80 GB. Each row compiles
for minutes there, since XLA and PyTorch try out kernels; `--rows` chooses some.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import torch

import score_sde as ss
from benchmarks import record
from benchmarks.torch_unet import TorchSongUNet
from benchmarks.turns import in_turns, matrix_rate
from score_sde.losses import denoising_loss, edm
from score_sde.networks import Network, SongUNet, from_linen
from score_sde.networks.flops import forward_flops
from score_sde.noise_levels import LogNormal
from score_sde.runtime.memory import keep_freed_memory
from score_sde.training.optimizer import Optimizer, make_optimizer
from score_sde.training.step import (
    TrainState,
    TrainStep,
    init_state,
    make_train_step,
    whole_batch_gradient,
)
from score_sde.weights import published_arrays
from score_sde.weights.published.edm import song_unet_tensors as edm_tensors

SHAPE = (32, 32, 3)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "ddpmpp": {},
    "ncsnpp": dict(
        embedding="fourier",
        resample_filter=(1, 3, 3, 1),
        progressive_input="residual",
    ),
}
LEARNING_RATE, CLIP_NORM, HALFLIFE_STEPS = 1e-3, 1.0, 1000
keep_freed_memory()  # as programs do; PyTorch is as fast with it
ON_GPU = jax.default_backend() == "gpu"
Run = Callable[[], Any]
"""Does the work, and waits for the end of it."""


def make_params(network: Network) -> Any:
    """Parameters under which every layer counts, which is not so at the start."""
    random = np.random.RandomState(0)

    def one(path: Any, leaf: Any) -> jax.Array:
        kind = path[-1].key
        noise = random.normal(size=leaf.shape).astype(np.float32)
        if kind == "kernel":
            return jnp.asarray(noise / math.sqrt(math.prod(leaf.shape[:-1])))
        return jnp.asarray(1 + 0.1 * noise if kind == "scale" else 0.1 * noise)

    return jax.tree_util.tree_map_with_path(one, network.init(jr.key(0)))


def make_denoise(network: Network, params: Any, dropout_key: Any = None) -> Any:
    apply = partial(network.apply, params, dropout_key=dropout_key)
    return ss.make_denoiser(apply, ss.precondition.edm)


def in_torch(module: SongUNet, params: Any) -> Any:
    """The same network with the same weights."""
    there = TorchSongUNet(module, SHAPE)
    arrays = published_arrays(jax.device_get(params), edm_tensors(module, SHAPE))
    there.load_state_dict({k: torch.tensor(a) for k, a in arrays.items()}, strict=True)
    if ON_GPU:
        there = there.cuda().to(memory_format=torch.channels_last)
    return there


def to_torch(x: Any) -> Any:
    there = torch.tensor(np.array(x))
    there = there.permute(0, 3, 1, 2) if there.ndim == 4 else there
    layout = torch.channels_last if ON_GPU and there.ndim == 4 else None
    there = there.contiguous(memory_format=layout or torch.contiguous_format)
    return there.cuda() if ON_GPU else there


def from_torch(x: Any) -> np.ndarray:
    return x.detach().float().cpu().permute(0, 2, 3, 1).numpy()


def check_equal(module: SongUNet, network: Network, params: Any) -> dict[str, float]:
    """Largest difference of outputs and of gradients, over the largest of each.

    Raises: AssertionError if one is above 1e-5, what float32 loses in 60 layers.
    """
    random = np.random.RandomState(2)
    x, probe = random.normal(size=(2, 2, *SHAPE)).astype(np.float32)
    sigma = np.float32([0.1, 3.0])

    def ours(params: Any, x: Any) -> Any:
        out = make_denoise(network, params)(x, sigma)
        return (out * probe).sum(), out

    # Trying out kernels in float32 takes minutes; any of them will do here.
    options = {"xla_gpu_autotune_level": 0} if ON_GPU else {}
    slope = jax.jit(jax.grad(ours, has_aux=True), compiler_options=options)
    with jax.default_matmul_precision("highest"):
        slopes, out = slope(params, x)
    there = in_torch(module, params).eval()
    torch.backends.cudnn.allow_tf32 = False
    other = there(to_torch(x), to_torch(sigma))
    (other * to_torch(probe)).sum().backward()
    slopes = published_arrays(jax.device_get(slopes), edm_tensors(module, SHAPE))
    differences = {"outputs": _difference(np.asarray(out), from_torch(other))}
    trained = dict(there.named_parameters())
    # One scale for all: gradients of biases in front of a norm are zero but rounded.
    scale = max(np.abs(slopes[name]).max() for name in trained)
    differences["gradients"] = max(
        float(np.abs(slopes[name] - p.grad.cpu().numpy()).max() / scale)
        for name, p in trained.items()
    )
    assert max(differences.values()) < 1e-5, differences
    return differences


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(a).max())


def our_step(network: Network) -> tuple[Any, TrainStep]:
    """The optimiser, and the step as `experiments.train` makes it."""
    settings = Optimizer(learning_rate=LEARNING_RATE, clip_norm=CLIP_NORM)
    optimizer = make_optimizer(settings, num_steps=1)

    def loss(key: Any, params: Any, x0: Any) -> jax.Array:
        key, dropout_key = jr.split(key)
        denoise = make_denoise(network, params, dropout_key)
        return denoising_loss(key, denoise, x0, noise_levels=LogNormal(), weight=edm)

    return optimizer, make_train_step(
        whole_batch_gradient(
            lambda key, params, batch, context: loss(key, params, batch["x0"])
        ),
        optimizer,
        seed=0,
        ema_halflife_steps=HALFLIFE_STEPS,
        ema_rampup_ratio=math.inf,
    )


def our_training(
    network: Network, params: Any, x0: Any, *, steps: int = 1, unroll: int = 1
) -> Run:
    """One call, of one step or of several."""
    optimizer, step = our_step(network)
    # Copies: the state is given away, and its average may not be its parameters.
    state = jax.tree.map(jnp.copy, init_state(params, optimizer))
    batch = {"x0": jnp.asarray(x0)}

    @partial(jax.jit, donate_argnums=0)
    def call(state: TrainState) -> Any:
        if steps == 1:
            return step(state, batch)
        batches = jax.tree.map(lambda a: jnp.stack([a] * steps), batch)
        return jax.lax.scan(step, state, batches, unroll=unroll)

    held = [state]

    def run() -> float:
        held[0], metrics = call(held[0])
        return float(metrics["loss"].mean())

    return run


def torch_training(model: Any, x0: Any, *, dtype: str, compiled: bool) -> Run:
    """Each step's work as ours has it, with PyTorch's functions on lists of tensors."""
    model = copy.deepcopy(model).train()
    parameters = list(model.parameters())
    averages = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)
    there, rate = to_torch(x0), 1 - 0.5 ** (1 / HALFLIFE_STEPS)
    forward = torch.compile(model) if compiled else model

    def run() -> float:
        sigma = torch.exp(torch.randn(len(there), device=there.device) * 1.2 - 1.2)
        at = sigma[:, None, None, None]
        with _autocast(dtype):
            denoised = forward(there + at * torch.randn_like(there), sigma)
        loss = ((1 / at**2 + 4) * (denoised - there) ** 2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, rate)
        return float(loss.detach())

    return run


def _autocast(dtype: str) -> Any:
    return torch.autocast(
        "cuda" if ON_GPU else "cpu", torch.bfloat16, enabled=dtype == "bfloat16"
    )


def grid(num_steps: int) -> np.ndarray:
    sigmas = ss.grids.karras(num_steps, sigma_min=0.002, sigma_max=80.0)
    return np.asarray(sigmas, np.float32)


def our_sampling(network: Network, params: Any, x: Any, num_steps: int) -> Run:
    sigmas = jnp.asarray(grid(num_steps))
    draw = jax.jit(
        lambda params, x: ss.sample("heun", make_denoise(network, params), x, sigmas).x
    )
    x = jnp.asarray(x)
    return lambda: np.asarray(draw(params, x))


def torch_sampling(
    model: Any, x: Any, num_steps: int, *, dtype: str, compiled: bool
) -> Run:
    """Karras et al. 2022, alg. 1."""
    model = copy.deepcopy(model).eval()
    forward = torch.compile(model) if compiled else model
    start, sigmas = to_torch(x), grid(num_steps).tolist()

    def slope(x: Any, sigma: float) -> Any:
        with _autocast(dtype):
            levels = torch.full((len(x),), sigma, device=x.device)
            return (x - forward(x, levels)) / sigma

    def run() -> np.ndarray:
        x = start
        with torch.inference_mode():
            for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
                first = slope(x, sigma)
                ahead = x + (after - sigma) * first
                if after:
                    second = slope(ahead, after)
                    ahead = x + (after - sigma) * 0.5 * (first + second)
                x = ahead
        return from_torch(x)

    return run


def measured(sides: dict[str, Run], repeat: int) -> dict[str, list[float]]:
    """Seconds of each: of the processor, or of the clock where a GPU computes."""
    return in_turns(sides, repeat, time.perf_counter if ON_GPU else time.process_time)


class Setup(NamedTuple):
    """What all rows are measured of."""

    given: argparse.Namespace
    network: Network
    params: Any
    model: Any
    """The same network in PyTorch."""
    x0: np.ndarray
    x: np.ndarray
    """Where sampling starts."""

    @property
    def ways(self) -> dict[str, bool]:
        """Names of PyTorch's ways, and whether its compiler is used."""
        return {"torch": False} | (
            {"torch compiled": True} if self.given.compile else {}
        )


Measured = tuple[str, dict[str, list[float]], dict[str, Any]]
"""(what, seconds of each side, what else is known)."""


def setup(given: argparse.Namespace) -> Setup:
    """Make the network on both sides, and check that they are equal."""
    module = SongUNet(
        channels=given.channels,
        multipliers=(2, 2, 2),
        blocks_per_level=given.blocks,
        dropout=given.dropout,
        **ARCHITECTURES[given.arch],
    )
    network = from_linen(module, SHAPE)
    params = make_params(network)
    differences = check_equal(module, network, params)
    print(json.dumps({"largest_relative_difference": differences}), flush=True)
    if ON_GPU:
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
    model = in_torch(module, params)
    network = from_linen(module.clone(dtype=given.dtype), SHAPE)
    random = np.random.RandomState(1)
    x0 = random.uniform(-1, 1, (given.batch, *SHAPE)).astype(np.float32)
    x = 80 * random.normal(size=x0.shape).astype(np.float32)
    return Setup(given, network, params, model, x0, x)


def train(at: Setup) -> Iterator[Measured]:
    """A step of training."""
    given = at.given
    sides = {"ours": our_training(at.network, at.params, at.x0)} | {
        name: torch_training(at.model, at.x0, dtype=given.dtype, compiled=compiled)
        for name, compiled in at.ways.items()
    }
    seconds = measured(sides, given.repeat)
    operations = 3 * forward_flops(at.network, at.params, SHAPE) * given.batch
    more: dict[str, Any] = {"operations": operations}
    if ON_GPU:
        rate = matrix_rate()
        more["matrix_rate"] = rate
        more["share_of_matrix_rate"] = {
            name: operations / float(np.median(s)) / rate for name, s in seconds.items()
        }
        # The highest so far, with whatever else each side holds.
        more["peak_bytes"] = {
            "ours": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
            "torch": torch.cuda.max_memory_allocated(),
        }
    yield "train", seconds, more


def heun(at: Setup) -> Iterator[Measured]:
    """Samples, by Heun's method."""
    given, steps = at.given, at.given.steps
    sides = {"ours": our_sampling(at.network, at.params, at.x, steps)} | {
        name: torch_sampling(
            at.model, at.x, steps, dtype=given.dtype, compiled=compiled
        )
        for name, compiled in at.ways.items()
    }
    more: dict[str, Any] = {"evaluations": 2 * steps - 1}
    if given.dtype == "float32" and not ON_GPU:
        more["largest_relative_difference"] = _difference(
            sides["ours"](), sides["torch"]()
        )
        # Each step amplifies what the one before rounded; 1e-4 is 1/40 of a grey level.
        assert more["largest_relative_difference"] < 1e-4, more
    yield "heun", measured(sides, given.repeat), more


def steps_per_call(at: Setup) -> Iterator[Measured]:
    """A step alone, and one of several in a call."""
    given, several = at.given, at.given.steps_per_call
    one = our_training(at.network, at.params, at.x0)
    for name, unroll, repeat in (
        ("written out", several, given.repeat),
        ("in a loop", 1, given.repeat if ON_GPU else given.loop_repeat),
    ):
        if not repeat:
            continue
        call = our_training(at.network, at.params, at.x0, steps=several, unroll=unroll)
        taken = measured({"alone": one, "ours": call}, repeat)
        taken["ours"] = [s / several for s in taken["ours"]]
        yield f"steps per call, {name}", taken, {"steps_per_call": several}


ROWS = {f.__name__: f for f in (train, heun, steps_per_call)}


def rows(given: argparse.Namespace) -> list[dict[str, Any]]:
    """The chosen rows, printed as they are known."""
    made: list[dict[str, Any]] = []
    at = setup(given)
    for name in given.rows:
        for what, seconds, more in ROWS[name](at):
            medians = {k: float(np.median(s)) for k, s in seconds.items()}
            mine = medians["ours"]
            made.append(
                {
                    "what": what,
                    "ratio": {k: s / mine for k, s in medians.items() if k != "ours"},
                    "seconds": medians,
                    "all_seconds": seconds,
                    "load": os.getloadavg()[0],
                    **more,
                }
            )
            print(json.dumps(made[-1]), flush=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--arch", choices=ARCHITECTURES, default="ddpmpp")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=2, help="per level")
    parser.add_argument("--dropout", type=float, default=0.13)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--steps", type=int, default=18, help="of Heun")
    parser.add_argument("--steps_per_call", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument(
        "--loop_repeat", type=int, default=1, help="of slow loops on CPUs; 0 for none"
    )
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=ON_GPU
    )
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    result = record.circumstances("flax", "optax", "torch") | {
        "options": {k: v for k, v in vars(given).items() if k != "json"},
        "rows": rows(given),
        "device": jax.devices()[0].device_kind,
    }
    record.write(given.json, result)


if __name__ == "__main__":
    main()
