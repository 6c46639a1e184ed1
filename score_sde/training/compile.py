"""The training step of a loss, compiled for devices as the config lays them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
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
from score_sde.training.optimizer import NO_GROUPS, Optimizer, make_group_optimizer
from score_sde.training.settings import Training
from score_sde.training.step import (
    NO_COMPANIONS,
    Batch,
    Gradient,
    LossFn,
    Metrics,
    StepContext,
    TrainState,
    TrainStep,
    accumulated_gradient,
    init_state,
    make_train_step,
    mean_over_axis,
    whole_batch_gradient,
)
from score_sde.types import Array, Key, Params


def gradient_on(devices: Devices, mesh: Mesh, loss: LossFn) -> Gradient:
    """The gradient of a loss, for `compile_train_step` of the same devices."""
    if devices.compiled_by == "pmap":
        return mean_over_axis(_batch_gradient(devices, loss, shares=1), DATA_AXIS)
    gradient = _batch_gradient(devices, loss, shares=batch_shares(mesh))

    def gathered(
        key: Key, params: Params, batch: Batch, context: StepContext
    ) -> tuple[Array, Params]:
        """Take the gradient at parameters that are gathered along the FSDP axis."""
        where = state_shardings(params, mesh, fsdp=False)
        whole = jax.lax.with_sharding_constraint(params, where)
        return gradient(key, whole, batch, context)

    return gathered


def _batch_gradient(devices: Devices, loss: LossFn, *, shares: int) -> Gradient:
    if devices.accumulate == 1:
        return whole_batch_gradient(loss)
    unroll = jax.default_backend() == "cpu"
    return accumulated_gradient(loss, devices.accumulate, shares=shares, unroll=unroll)


def compile_train_step(
    train_step: TrainStep, state: TrainState, devices: Devices, mesh: Mesh
) -> TrainStep:
    """Compile the step of states that lie like this one, which are given away.

    With `steps_per_call` above 1 it takes as many batches, [steps, batch, ...], and
    its metrics are as many. Companions lie whole on every device.
    """
    steps = devices.steps_per_call
    unroll = steps if jax.default_backend() == "cpu" else 1

    def several(
        state: TrainState, batches: Batch, companions: Params
    ) -> tuple[TrainState, Metrics]:
        def one(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            return train_step(state, batch, companions)

        if steps == 1:
            return one(state, batches)
        return jax.lax.scan(one, state, batches, unroll=unroll)

    axis = 1 if steps > 1 else 0
    if devices.compiled_by == "pmap":
        return _pmapped(several, axis, mesh.devices.size)
    # Shardings are stated for inputs and outputs, or the second call would find the
    # state placed differently and compile once more.
    where = state_shardings(state, mesh)
    compiled = jax.jit(
        several,
        in_shardings=(where, batch_sharding(mesh, axis=axis), replicated(mesh)),
        out_shardings=(where, replicated(mesh)),
        donate_argnums=0,
    )
    return lambda state, batch, companions=NO_COMPANIONS: compiled(
        state, batch, dict(companions)
    )


def _pmapped(several: TrainStep, axis: int, num_devices: int) -> TrainStep:
    compiled: Callable[..., Any] = jax.pmap(
        several,
        axis_name=DATA_AXIS,
        in_axes=(None, axis, None),
        out_axes=None,
        donate_argnums=0,
    )

    # Where pmap leaves the state: put there first, or it would compile once more.
    row = jax.make_mesh((num_devices,), (DATA_AXIS,), (AxisType.Auto,))

    def cut(a: Array) -> Array:
        size = a.shape[axis] // num_devices
        return a.reshape(*a.shape[:axis], num_devices, size, *a.shape[axis + 1 :])

    return lambda state, batch, companions=NO_COMPANIONS: compiled(
        jax.device_put(state, replicated(row)),
        jax.tree.map(cut, batch),
        dict(companions),
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
    companions: Mapping[str, Params] = NO_COMPANIONS,
    target_decay: Callable[[Array], Array] | None = None,
    groups: Mapping[str, Optimizer] = NO_GROUPS,
) -> tuple[TrainStep, TrainState]:
    """Compile the step of these settings, and place the state before the first.

    Args:
        loss: one value per example.
        params: the initial parameters.
        optimizer_settings: of the config.
        settings: of the loop.
        devices: how training is spread over them.
        mesh: the devices.
        seed: of all that is drawn.
        project: brings parameters back to where training keeps them.
        companions: role -> the parameters of another run, which are not trained.
        target_decay: of the loss's target, None for a loss without any.
        groups: key of the parameters -> an optimiser of their own.

    Returns:
        (state, batch) -> (state, metrics), and the first state.
    """
    optimizer = make_group_optimizer(
        optimizer_settings, params, num_steps=settings.num_steps, groups=groups
    )
    step = make_train_step(
        gradient_on(devices, mesh, loss),
        optimizer,
        seed=seed,
        ema_halflife_steps=settings.ema_halflife_steps,
        ema_rampup_ratio=settings.ema_rampup_ratio,
        project=project,
        power_ema_stds=settings.power_ema_stds,
        target_decay=target_decay,
    )
    num_averages = len(settings.power_ema_stds)
    state = init_state(
        params,
        optimizer,
        num_power_emas=num_averages,
        has_target=target_decay is not None,
    )
    compiled = compile_train_step(step, state, devices, mesh)
    placed = (
        put_state(dict(companions), mesh, fsdp=False) if companions else NO_COMPANIONS
    )
    return partial(compiled, companions=placed), put_state(state, mesh)
