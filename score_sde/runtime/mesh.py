"""Devices and hosts: which there are, and where arrays lie.

The mesh has three axes. A batch is cut along 'data' and 'fsdp' together; the training
state is whole along 'data', cut along 'fsdp' wherever an axis of an array divides, and
the matrices of a transformer along 'tensor'. XLA's partitioner derives all
communication from that (Xu et al. 2021), so that the step is the same function on one
device and on a pod.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from score_sde.fields import require, settings
from score_sde.networks import TENSOR_AXES
from score_sde.rules import at_least, one_of
from score_sde.runtime.memory import keep_freed_memory
from score_sde.types import UserError

DATA_AXIS, FSDP_AXIS, TENSOR_AXIS = "data", "fsdp", "tensor"
BATCH_AXES = (DATA_AXIS, FSDP_AXIS)
COMPILERS = ("jit", "pmap")

SMALLEST_CUT = 1024
"""Arrays of fewer numbers are whole on every device: cutting them saves nothing."""


@settings
class Devices:
    """Settings of how training is spread over devices: it computes the same.

    Attributes:
        compiled_by: jit over a mesh, or pmap, which copies the state to every device of
            one host.
        fsdp: devices along which the state is cut; the data axis has the others.
        tensor: devices along which the matrices of a transformer are cut.
        accumulate: parts of a batch whose gradients are computed one after another, for
            batches that don't fit.
        steps_per_call: steps that the host starts at once, for steps so short that
            starting them takes long.
    """

    compiled_by: Annotated[str, one_of(COMPILERS)] = "jit"
    fsdp: Annotated[int, at_least(1)] = 1
    tensor: Annotated[int, at_least(1)] = 1
    accumulate: Annotated[int, at_least(1)] = 1
    steps_per_call: Annotated[int, at_least(1)] = 1

    def __post_init__(self) -> None:
        require(
            self,
            (
                "fsdp = tensor = 1 with pmap, which copies the state",
                lambda d: d.compiled_by == "jit" or d.fsdp == d.tensor == 1,
            ),
        )


def start_devices(hosts: Mapping[str, Any] | None = None) -> None:
    """Prepare JAX before its first use: hosts, a device per core, memory, a cache.

    A batch cut over one device per core trains 1.1 to 1.6 times as fast as one device
    with as many threads. Where there are GPUs or TPUs the setting changes nothing.
    Compiled programs are kept in a private folder, since whoever can write to it can
    make this program run code.

    Args:
        hosts: the arguments of `jax.distributed.initialize`, of which those that are
            left out are found by it on TPU pods, SLURM, Kubernetes and Open MPI; None
            for a program on one host.

    Raises:
        UserError: if the other hosts can't be found.
    """
    cores = len(os.sched_getaffinity(0))
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen and jax.config.values["jax_num_cpu_devices"] < 1:
        # Where JAX is in use already, as in a notebook, its devices are what they are.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", cores)
    # A device that waits for another in a collective holds a thread. By default XLA has
    # one per core, and then the other may wait for that thread for ever (measured:
    # within 1,000 steps on two busy cores).
    os.environ.setdefault("PJRT_NPROC", str(4 * cores))
    keep_freed_memory()
    if not jax.config.values["jax_compilation_cache_dir"]:
        root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        cache = root / "score_sde" / "xla"
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if hosts is not None:
        # Its handler of SIGTERM would take the place of `preemption.listening`.
        jax.config.update("jax_enable_preemption_service", False)
        try:
            jax.distributed.initialize(**hosts)
        except (RuntimeError, ValueError) as error:
            reason = (str(error).splitlines() or ["?"])[0]
            raise UserError(
                f"the hosts can't be connected: {reason} Without a cluster that JAX "
                "knows, give --coordinator=ADDRESS:PORT --num_processes=N "
                "--process_id=I to each."
            ) from None


def is_main_host() -> bool:
    """Whether this is the host that writes what is single; without others it is."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def wait_for_hosts(what: str) -> None:
    """Return when every host is here."""
    if jax.distributed.is_initialized():
        multihost_utils.sync_global_devices(what)


def require_alike(what: str, digest: str) -> None:
    """Raise a UserError on every host if this word is not the same on all of them."""
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    mine = np.frombuffer(digest.encode().ljust(64)[:64], np.uint8)
    if (multihost_utils.process_allgather(mine) != mine).any():
        raise UserError(f"the hosts were given different {what}.")


def make_mesh(devices: Devices, *, batch_size: int = 0) -> Mesh:
    """The devices of all hosts, [data, fsdp, tensor].

    Cores of one CPU that serve as devices are left out where the batch can't be cut
    evenly over all of them: a config that trains on 8 cores trains on 12.

    Args:
        devices: how many there are along fsdp and tensor.
        batch_size: of all hosts together; 0 if nothing is cut over all devices.

    Raises: UserError if their number isn't a multiple of fsdp times tensor.
    """
    cut = devices.fsdp * devices.tensor
    number = jax.device_count()
    if number % cut:
        raise UserError(
            f"devices: fsdp {devices.fsdp} times tensor {devices.tensor} must divide "
            f"the number of devices, {number}."
        )
    if jax.default_backend() == "cpu" and jax.process_count() == 1:
        number = _cores_for(batch_size, devices, number)
    if devices.compiled_by == "pmap" and jax.process_count() > 1:
        raise UserError(
            f"devices.compiled_by is 'pmap', which is for one host; there are "
            f"{jax.process_count()}: choose 'jit'."
        )
    shape = (number // cut, devices.fsdp, devices.tensor)
    names = (DATA_AXIS, FSDP_AXIS, TENSOR_AXIS)
    chosen = jax.devices()[:number]
    return jax.make_mesh(shape, names, (AxisType.Auto,) * 3, devices=chosen)


def _cores_for(batch_size: int, devices: Devices, number: int) -> int:
    """The largest number of cores over which a batch is cut evenly; all if none is."""
    for cores in range(number, 0, -devices.fsdp * devices.tensor):
        if batch_size % (cores // devices.tensor * devices.accumulate) == 0:
            return cores
    return number


def local_mesh() -> Mesh:
    """The devices of this host in one row, for work that hosts share out in batches."""
    devices = jax.local_devices()
    return jax.make_mesh(
        (len(devices), 1, 1),
        (DATA_AXIS, FSDP_AXIS, TENSOR_AXIS),
        (AxisType.Auto,) * 3,
        devices=devices,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds all of the array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, axis: int = 0) -> NamedSharding:
    """Every device holds its share of one axis, the first unless told otherwise."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, BATCH_AXES))


def batch_shares(mesh: Mesh) -> int:
    """Into how many parts the mesh cuts a batch."""
    return mesh.shape[DATA_AXIS] * mesh.shape[FSDP_AXIS]


def state_shardings(state: Any, mesh: Mesh, *, fsdp: bool = True) -> Any:
    """Place each array of a training state, or of parameters.

    Args:
        state: a pytree of arrays.
        mesh: the devices.
        fsdp: whether arrays are cut along that axis, as where they are kept, or whole
            along it, as where they are used.
    """

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        spec: list[str | None] = [None] * leaf.ndim
        if leaf.size < SMALLEST_CUT:
            return replicated(mesh)
        names = [getattr(entry, "key", None) for entry in path]
        layer = names[-2] if len(names) > 1 else None
        axis = TENSOR_AXES.get(str(layer)) if names[-1] == "kernel" else None
        if axis is not None and leaf.shape[axis] % mesh.shape[TENSOR_AXIS] == 0:
            spec[axis] = TENSOR_AXIS
        free = [
            axis
            for axis in range(leaf.ndim)
            if spec[axis] is None and leaf.shape[axis] % mesh.shape[FSDP_AXIS] == 0
        ]
        if fsdp and free:
            spec[max(free, key=lambda axis: leaf.shape[axis])] = FSDP_AXIS
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(one, state)


def divisible(batch_size: int, mesh: Mesh) -> int:
    """The batch size, rounded up to a multiple of the number of devices."""
    return -(-batch_size // mesh.devices.size) * mesh.devices.size


def put_batch(batch: Any, mesh: Mesh, *, axis: int = 0) -> Any:
    """Cut the arrays of a pytree over the devices; each host gives its own rows.

    Args:
        batch: a pytree of arrays.
        mesh: the devices.
        axis: of the examples.

    Raises:
        UserError: if that axis does not divide evenly.
    """
    shares = batch_shares(mesh) // jax.process_count()
    for leaf in jax.tree.leaves(batch):
        if leaf.shape[axis] % shares:
            raise UserError(
                f"a batch of {leaf.shape[axis]} can't be cut evenly over {shares} "
                f"devices; make it a multiple of {shares}."
            )
    sharding = batch_sharding(mesh, axis=axis)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(
        lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a)),
        batch,
    )


def put_state(state: Any, mesh: Mesh, *, fsdp: bool = True) -> Any:
    """Copy a pytree to the mesh, sharing no memory with what it came from.

    The train step gives its state away, and a `device_put` may alias its source. On
    every host the pytree has the same values.

    Args:
        state: a pytree of arrays.
        mesh: the devices.
        fsdp: whether arrays are cut along that axis.
    """

    def one(leaf: Any, sharding: NamedSharding) -> jax.Array:
        array = np.array(leaf)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(one, state, state_shardings(state, mesh, fsdp=fsdp))


def to_host(tree: Any, mesh: Mesh) -> Any:
    """The whole arrays, on this host, of a pytree that lies on the mesh.

    A collective: every host must call it.
    """
    return jax.tree.map(lambda a: np.asarray(a.addressable_data(0)), _whole(mesh)(tree))


@functools.cache
def _whole(mesh: Mesh) -> Callable[[Any], Any]:
    """Kept, or every call would compile anew what gathers the arrays."""
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))
