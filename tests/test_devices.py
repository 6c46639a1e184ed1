"""Training is the same on one device, on many, and however it is cut over them."""

import dataclasses
import functools
import itertools
import platform
import resource
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

from configs import digits
from score_sde.data import batch_at
from score_sde.run.build import build
from score_sde.run.train import initial_params, make_loss
from score_sde.runtime.checksums import _sums_on_device, checksums
from score_sde.runtime.mesh import (
    Devices,
    batch_shares,
    make_mesh,
    put_batch,
    put_state,
    state_shardings,
)
from score_sde.training.checkpoints import Checkpoints
from score_sde.training.compile import compile_train_step, gradient_on
from score_sde.training.optimizer import make_optimizer
from score_sde.training.step import init_state, make_train_step
from score_sde.types import UserError

pytestmark = pytest.mark.usefixtures("standard_promotion")

UNET = {"channels": 8, "dropout": 0.2}
DIT = {"name": "dit", "patch_size": 2, "hidden_size": 32, "depth": 1, "num_heads": 2}
LAYOUTS = {
    "four devices": Devices(),
    "fsdp": Devices(fsdp=4),
    "data and fsdp": Devices(fsdp=2),
    "tensor": Devices(tensor=2),
    "fsdp and tensor": Devices(fsdp=2, tensor=2),
    "pmap": Devices(compiled_by="pmap"),
    "accumulated": Devices(accumulate=2),
    "accumulated in a pmap": Devices(compiled_by="pmap", accumulate=2),
    "several steps a call": Devices(steps_per_call=2),
}
ONE = Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tensor"))
NUM_STEPS = 2


def experiment_of(network, *, batch_size=8):
    config = digits.get_config().to_dict()
    config["network"] = config["network"] | network
    if network.get("name") == "dit":
        config["network"] = network | {"learn_sigma": False}
    config["conditions"] = {"label": {}}
    config["objective"] = {"name": "denoising", "learn_log_variance": True}
    config["train"] |= {"condition_dropout": 0.3}
    config["data"] |= {"batch_size": batch_size}
    config["optimizer"] = {"learning_rate": 1e-3}
    return build(config)


def batches(experiment, step=0):
    size = experiment.data.batch_size
    for i in itertools.count(step):
        yield batch_at(experiment.dataset, seed=0, step=i, batch_size=size)


def prepared(experiment, devices, mesh):
    """(state on the mesh, compiled step)."""
    optimizer = make_optimizer(experiment.optimizer, num_steps=10)
    step = make_train_step(
        gradient_on(devices, mesh, make_loss(experiment)),
        optimizer,
        seed=0,
        ema_halflife_steps=5.0,
        ema_rampup_ratio=1.0,
    )
    state = init_state(initial_params(experiment), optimizer)
    return put_state(state, mesh), compile_train_step(step, state, devices, mesh)


def trained(experiment, devices, mesh):
    """(losses of the steps, state) after NUM_STEPS."""
    state, step = prepared(experiment, devices, mesh)
    losses, stream = [], batches(experiment)
    for _ in range(NUM_STEPS // devices.steps_per_call):
        rows = list(itertools.islice(stream, devices.steps_per_call))
        several = devices.steps_per_call > 1
        batch = jax.tree.map(lambda *a: np.stack(a), *rows) if several else rows[0]
        state, metrics = step(state, put_batch(batch, mesh, axis=int(several)))
        losses += np.atleast_1d(metrics["loss"]).tolist()
    return losses, state


@functools.cache
def reference(network):
    """(experiment, what one device makes of it)."""
    experiment = experiment_of({"unet": UNET, "dit": DIT}[network])
    return experiment, trained(experiment, Devices(), ONE)


BY_DEFAULT = [("dit", "fsdp and tensor")]


@pytest.mark.parametrize(
    ("network", "name"),
    [
        pytest.param(*case, marks=() if case in BY_DEFAULT else pytest.mark.slow)
        for case in itertools.product(("unet", "dit"), LAYOUTS)
    ],
)
def test_every_layout_trains_like_one_device(network, name):
    """With dropout of units and of conditions, stratified noise levels, Adam.

    Sums are rounded in another order, 1e-7 of each. Adam divides a gradient by its
    length, so that where one is next to nothing its rounding counts in full: the
    parameters are within a hundredth of a step of the learning rate.
    """
    experiment, (losses, expected) = reference(network)
    devices = LAYOUTS[name]
    found, state = trained(experiment, devices, make_mesh(devices))
    np.testing.assert_allclose(found, losses, rtol=2e-5)
    for got, want in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_the_state_is_cut_where_it_divides():
    """And what is small is whole."""
    experiment = experiment_of(DIT)
    devices = Devices(fsdp=2, tensor=2)
    mesh = make_mesh(devices)
    params = jax.eval_shape(lambda: initial_params(experiment))
    block = state_shardings(params, mesh)["network"]["blocks_0"]
    assert block["attn_qkv"]["kernel"].spec == PartitionSpec("fsdp", "tensor")
    assert block["attn_proj"]["kernel"].spec == PartitionSpec("tensor", "fsdp")
    assert block["attn_qkv"]["bias"].spec == PartitionSpec()
    state, _ = prepared(experiment, devices, mesh)
    kernel = state.params["network"]["blocks_0"]["mlp_fc1"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    # The parameters, their average, and two moments.
    alike = [a for a in jax.tree.leaves(state) if a.shape == kernel.shape]
    assert sum(a.sharding == kernel.sharding for a in alike) == 4


def test_a_checkpoint_of_any_layout_is_restored_in_any_other(tmp_path):
    """Bit for bit, its checksums being those of whole arrays."""
    kernel = np.arange(96 * 64.0, dtype=np.float32).reshape(96, 64)
    params = {"attn_qkv": {"kernel": kernel, "bias": kernel[0]}}
    state = init_state(params, optax.adam(0.1))
    meshes = {name: make_mesh(LAYOUTS[name]) for name in ("fsdp and tensor", "fsdp")}
    meshes["one device"] = ONE
    states = {name: put_state(state, mesh) for name, mesh in meshes.items()}
    for number, (name, state) in enumerate(states.items()):
        folder = tmp_path / str(number)
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(state)
        for other in states.values():
            with Checkpoints(folder, create=False) as checkpoints:
                back = checkpoints.restore(other)
            for got, want, like in zip(
                *map(jax.tree.leaves, (back, state, other)), strict=True
            ):
                np.testing.assert_array_equal(got, want, err_msg=name)
                assert got.sharding == like.sharding


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compiled_by": "xla"}, "compiled_by is 'xla'; choose from"),
        ({"compiled_by": "pmap", "fsdp": 2}, "with pmap, which copies the state"),
        ({"accumulate": 0}, "accumulate is 0; it must be >= 1"),
    ],
)
def test_devices_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Devices(**options)


def test_axes_that_do_not_divide_the_devices_are_refused():
    message = "fsdp 3 times tensor 1 must divide the number of devices, 4"
    with pytest.raises(UserError, match=message):
        make_mesh(dataclasses.replace(Devices(), fsdp=3))


@pytest.mark.parametrize(
    ("options", "batch_size", "shares"),
    [
        ({}, 8, 4),
        ({}, 6, 3),
        ({}, 7, 1),
        ({"accumulate": 2}, 12, 3),
        ({"fsdp": 2}, 6, 2),
        ({"tensor": 2}, 7, 1),
        ({"compiled_by": "pmap"}, 6, 3),
    ],
)
def test_cores_that_would_cut_a_batch_unevenly_are_left_out(
    options, batch_size, shares
):
    mesh = make_mesh(Devices(**options), batch_size=batch_size)
    assert batch_shares(mesh) == shares
    assert batch_size % (shares * Devices(**options).accumulate) == 0
    put_batch({"values": np.zeros((batch_size, 2))}, mesh)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"compiled_by": "pmap"}])
def test_training_on_some_of_the_cores_is_that_on_one(options):
    experiment = experiment_of(UNET, batch_size=6)
    devices = Devices(**options)
    mesh = make_mesh(devices, batch_size=6)
    assert mesh.devices.size == 3
    found, _ = trained(experiment, devices, mesh)
    np.testing.assert_allclose(found, trained(experiment, Devices(), ONE)[0], rtol=2e-5)


@pytest.mark.parametrize(
    "array",
    [
        np.float32([[1.5, -2.0], [3.0, 1e-30]]),
        np.float64([1.5, np.pi]),
        np.asarray([1.5, -0.1], ml_dtypes.bfloat16),
        np.int32(7),
        np.asarray([True, False, True]),
        np.uint8([255, 0, 3]),
    ],
    ids=lambda a: str(a.dtype),
)
def test_checksums_are_those_of_the_formula_on_host_and_device(array):
    """By Python's own integers, word by word."""

    def mixed(h):
        h = ((h ^ (h >> 16)) * 0x85EBCA6B) % 2**32
        h = ((h ^ (h >> 13)) * 0xC2B2AE35) % 2**32
        return h ^ (h >> 16)

    width = min(array.dtype.itemsize, 4)
    data = array.tobytes()
    words = [
        int.from_bytes(data[i : i + width], "little")
        for i in range(0, len(data), width)
    ]
    first = [mixed((w + mixed(i)) % 2**32) for i, w in enumerate(words)]
    second = [mixed((h + 0x9E3779B9) % 2**32) for h in first]
    expected = f"{sum(first) % 2**32:08x}{sum(second) % 2**32:08x}"
    assert checksums({"a": array}) == {"a": expected}
    on_device = _sums_on_device(jnp.asarray(array))
    assert "".join(f"{int(word):08x}" for word in on_device) == expected


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
def test_a_programs_memory_is_its_own_from_step_to_step():
    """Or the system would fill 64 MB with zeros, page by page, in every call."""
    code = """
import resource
from score_sde.runtime.mesh import start_devices
start_devices()
import jax, jax.numpy as jnp
call = jax.jit(lambda x: jnp.cumsum(jnp.sin(x))[::7].max())
x = jnp.ones(2**24, jnp.float32)
found = []
for _ in range(12):  # until the heap has found its size
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call(x).block_until_ready()
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(found))
"""
    root = Path(__file__).parents[1]
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert int(out) < 2**26 / resource.getpagesize() / 10
