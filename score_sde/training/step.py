"""One training step: loss, gradient, update, moving average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax.sharding import Mesh

from score_sde.networks.network import is_frozen
from score_sde.training.mesh import batch_sharding, replicated
from score_sde.training.post_hoc_ema import power_rate
from score_sde.types import Array, Key

Params = Any
Batch = Any
Metrics = dict[str, Array]
LossFn = Callable[[Key, Params, Batch], Array]
"""(key, params, batch) -> one loss per example."""


class TrainState(NamedTuple):
    """All that changes in training, and arrays only."""

    step: Array
    """Steps taken."""
    params: Params
    ema_params: Params
    """The moving average, from which one samples."""
    opt_state: optax.OptState
    power_emas: tuple[Params, ...] = ()
    """Averages of `post_hoc_ema`, one for each width that is tracked."""


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    num_power_emas: int = 0,
) -> TrainState:
    """The state before the first step; the averages start at the parameters."""
    step, averages = jnp.zeros((), jnp.int32), (params,) * num_power_emas
    return TrainState(step, params, params, optimizer.init(params), averages)


def ema_decay(step: Array, *, halflife_steps: float, rampup_ratio: float) -> Array:
    """Decay of the moving average at a step (Karras et al. 2022, app. F.1).

    The half-life is halflife_steps, but at most rampup_ratio times the steps taken, so
    that the average forgets the initial parameters; a ratio of inf turns that off.
    """
    halflife = jnp.minimum(
        halflife_steps, rampup_ratio * (step + 1).astype(jnp.float32)
    )
    return jnp.power(0.5, 1 / halflife)


def make_train_step(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    ema_halflife_steps: float,
    ema_rampup_ratio: float,
    project: Callable[[Params], Params] = lambda params: params,
    power_ema_stds: Sequence[float] = (),
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The pure step (state, batch) -> (state, metrics).

    Its randomness is a function of (seed, step, example). Metrics are the mean loss,
    the norm of the gradient before clipping, and whether the update was left out since
    one of them is not finite: the state is then that before the step. The parameters
    are projected first, as those of a network that keeps its weights normalised
    (`Network.project`).
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jr.fold_in(jr.key(seed), state.step)

        def mean_loss(params: Params) -> Array:
            return loss(key, params, batch).mean()

        params = project(state.params)
        value, gradient = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, params)
        params = optax.apply_updates(params, _of_trained(updates))
        decay = ema_decay(
            state.step, halflife_steps=ema_halflife_steps, rampup_ratio=ema_rampup_ratio
        )
        ema_params = optax.incremental_update(params, state.ema_params, 1 - decay)
        power_emas = tuple(
            optax.incremental_update(params, old, power_rate(state.step, std))
            for std, old in zip(power_ema_stds, state.power_emas, strict=True)
        )
        norm = optax.tree.norm(gradient)
        good = jnp.isfinite(value) & jnp.isfinite(norm)
        new = TrainState(state.step, params, ema_params, opt_state, power_emas)
        kept = jax.tree.map(lambda now, old: jnp.where(good, now, old), new, state)
        metrics = {"loss": value, "gradient_norm": norm, "skipped": ~good}
        return kept._replace(step=state.step + 1), metrics

    return train_step


def _of_trained(updates: Params) -> Params:
    """Updates without those of frozen parameters, which may decay like all weights."""

    def one(path: tuple[Any, ...], update: Array) -> Array:
        return jnp.zeros_like(update) if is_frozen(path) else update

    return jax.tree_util.tree_map_with_path(one, updates)


def compile_train_step(
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]], mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step over a mesh: state on every device and donated, batch cut over them.

    Shardings are stated for inputs and outputs, or the second call would find the
    state placed differently and compile once more.
    """
    everywhere = replicated(mesh)
    return jax.jit(
        train_step,
        in_shardings=(everywhere, batch_sharding(mesh)),
        out_shardings=everywhere,
        donate_argnums=0,
    )
