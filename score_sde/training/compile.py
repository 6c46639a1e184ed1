"""The training step of a loss, compiled for devices as the config lays them out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from score_sde.runtime.mesh import (
    DATA_AXIS,
    Devices,
    batch_sharding,
    batch_shares,
    put_state,
    replicated,
    state_shardings,
)
from score_sde.training.loop import Training
from score_sde.training.optimizer import Optimizer, make_optimizer
from score_sde.training.step import (
    Batch,
    Gradient,
    LossFn,
    Metrics,
    TrainState,
    TrainStep,
    init_state,
    make_train_step,
    of_parts,
    of_whole_batch,
    over_axis,
)
from score_sde.types import Array, Key

Params = Any


def gradient_on(devices: Devices, mesh: Mesh, loss: LossFn) -> Gradient:
    """The gradient of a loss, for `compile_train_step` of the same devices."""
    if devices.compiled_by == "pmap":
        return over_axis(_of_batch(devices, loss, shares=1), DATA_AXIS)
    gradient = _of_batch(devices, loss, shares=batch_shares(mesh))

    def gathered(key: Key, params: Params, batch: Batch) -> tuple[Array, Params]:
        """Of parameters gathered along the FSDP axis, as each device needs them."""
        where = state_shardings(params, mesh, fsdp=False)
        whole = jax.lax.with_sharding_constraint(params, where)
        return gradient(key, whole, batch)

    return gathered


def _of_batch(devices: Devices, loss: LossFn, *, shares: int) -> Gradient:
    if devices.accumulate == 1:
        return of_whole_batch(loss)
    unroll = jax.default_backend() == "cpu"
    return of_parts(loss, devices.accumulate, shares=shares, unroll=unroll)


def compile_train_step(
    train_step: TrainStep, state: TrainState, devices: Devices, mesh: Mesh
) -> TrainStep:
    """The step of states that lie like this one, which are given away.

    With `steps_per_call` above 1 it takes as many batches, [steps, batch, ...], and
    its metrics are as many.
    """
    steps = devices.steps_per_call
    several = train_step
    if steps > 1:
        unroll = steps if jax.default_backend() == "cpu" else 1

        def several(state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
            return jax.lax.scan(train_step, state, batches, unroll=unroll)

    axis = 1 if steps > 1 else 0
    if devices.compiled_by == "pmap":
        return _pmapped(several, axis, mesh.devices.size)
    # Shardings are stated for inputs and outputs, or the second call would find the
    # state placed differently and compile once more.
    where = state_shardings(state, mesh)
    return jax.jit(
        several,
        in_shardings=(where, batch_sharding(mesh, axis=axis)),
        out_shardings=(where, replicated(mesh)),
        donate_argnums=0,
    )


def _pmapped(several: TrainStep, axis: int, num_devices: int) -> TrainStep:
    compiled: Callable[..., Any] = jax.pmap(
        several,
        axis_name=DATA_AXIS,
        in_axes=(None, axis),
        out_axes=None,
        donate_argnums=0,
    )

    # Where pmap leaves the state: put there first, or it would compile once more.
    row = jax.make_mesh((num_devices,), (DATA_AXIS,), (AxisType.Auto,))

    def cut(a: Array) -> Array:
        size = a.shape[axis] // num_devices
        return a.reshape(*a.shape[:axis], num_devices, size, *a.shape[axis + 1 :])

    return lambda state, batch: compiled(
        jax.device_put(state, replicated(row)), jax.tree.map(cut, batch)
    )


def prepare_training(
    loss: LossFn,
    params: Params,
    optimizer_settings: Optimizer,
    settings: Training,
    devices: Devices,
    mesh: Mesh,
    *,
    seed: int,
    project: Callable[[Params], Params] = lambda params: params,
) -> tuple[TrainStep, TrainState]:
    """The compiled step of these settings, and the state before the first, placed."""
    optimizer = make_optimizer(optimizer_settings, num_steps=settings.num_steps)
    step = make_train_step(
        gradient_on(devices, mesh, loss),
        optimizer,
        seed=seed,
        ema_halflife_steps=settings.ema_halflife_steps,
        ema_rampup_ratio=settings.ema_rampup_ratio,
        project=project,
        power_ema_stds=settings.power_ema_stds,
    )
    num_averages = len(settings.power_ema_stds)
    state = init_state(params, optimizer, num_power_emas=num_averages)
    return compile_train_step(step, state, devices, mesh), put_state(state, mesh)
