"""One training step: gradient, update, moving averages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from score_sde.arrays import part_of_batch, place_in_batch
from score_sde.networks.network import is_frozen, is_statistic
from score_sde.training.post_hoc_ema import power_rate
from score_sde.types import Array, Key, Params

Batch = Any
Metrics = dict[str, Array]
NO_COMPANIONS: Mapping[str, Params] = MappingProxyType({})


class StepContext(NamedTuple):
    """The context of a loss beside parameters and batch; none of it is trained."""

    step: Array
    """Steps taken so far."""
    average: Params
    """The moving average of the parameters."""
    companions: Mapping[str, Params] = NO_COMPANIONS
    """Role -> the parameters of another run."""
    target: Params = ()
    """The copy of the parameters that follows them, for a loss that has targets."""


LossFn = Callable[[Key, Params, Batch, StepContext], Array]
"""(key, params, batch, context) -> one loss per example."""
Gradient = Callable[[Key, Params, Batch, StepContext], tuple[Array, Params]]
"""(key, params, batch, context) -> the mean loss of a batch and its gradient."""
STOP = "stop"
"""Where a batch says whether hosts want to stop."""


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
    target: Params = ()
    """A copy of the parameters that follows them at a rate of the loss's own."""


TrainStep = Callable[..., tuple[TrainState, Metrics]]
"""(state, batch, companions={}) -> (state after the step, metrics)."""


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    num_power_emas: int = 0,
    has_target: bool = False,
) -> TrainState:
    """The state before the first step; averages and target start at the parameters."""
    step, averages = jnp.zeros((), jnp.int32), (params,) * num_power_emas
    target = params if has_target else ()
    return TrainState(step, params, params, optimizer.init(params), averages, target)


def averaged(params: Params, old: Params, rate: Array | float) -> Params:
    """The average, moved by a rate; what is never trained stays as it is.

    An average of equal numbers would differ from them by rounding.
    """
    moved = optax.incremental_update(params, old, rate)
    return jax.tree_util.tree_map_with_path(
        lambda path, new, mean: new if is_frozen(path) else mean, params, moved
    )


def ema_decay(step: Array, *, halflife_steps: float, rampup_ratio: float) -> Array:
    """Decay of the moving average at a step (Karras et al. 2022, app. F.1).

    The half-life is halflife_steps, but at most rampup_ratio times the steps taken, so
    that the average forgets the initial parameters; a ratio of inf turns that off.
    """
    halflife = jnp.minimum(
        halflife_steps, rampup_ratio * (step + 1).astype(jnp.float32)
    )
    return jnp.power(0.5, 1 / halflife)


def whole_batch_gradient(loss: LossFn) -> Gradient:
    """Make the gradient of the mean loss of all examples at once."""

    def gradient(
        key: Key, params: Params, batch: Batch, context: StepContext
    ) -> tuple[Array, Params]:
        return jax.value_and_grad(lambda p: loss(key, p, batch, context).mean())(params)

    return gradient


def accumulated_gradient(
    loss: LossFn, parts: int, *, shares: int, unroll: bool
) -> Gradient:
    """Gradient accumulation: split the batch into `parts`, one after another.

    Args:
        loss: one value per example.
        parts: how many; the memory is that of one.
        shares: into how many the batch is cut over devices, each of which takes its
            share of every part.
        unroll: whether the loop is written out, since XLA on CPUs is 6 to 66 times
            slower at gradients of convolutions in a loop.
    """
    of_whole = whole_batch_gradient(loss)

    def gradient(
        key: Key, params: Params, batch: Batch, context: StepContext
    ) -> tuple[Array, Params]:
        size = len(jax.tree.leaves(batch)[0])
        numbers, total, _ = place_in_batch(size)

        def cut(a: Array) -> Array:
            a = a.reshape(shares, parts, size // (shares * parts), *a.shape[1:])
            return a.swapaxes(0, 1).reshape(parts, size // parts, *a.shape[3:])

        def add(sums: Any, part: tuple[Array, Batch]) -> tuple[Any, None]:
            with part_of_batch(part[0], total):
                found = of_whole(key, params, part[1], context)
            return jax.tree.map(lambda s, f: s + f / parts, sums, found), None

        zeros = jax.tree.map(jnp.zeros_like, (jnp.zeros((), jnp.float32), params))
        examples = jax.tree.map(cut, (numbers, batch))
        return jax.lax.scan(add, zeros, examples, unroll=parts if unroll else 1)[0]

    return gradient


def mean_over_axis(gradient: Gradient, axis: str) -> Gradient:
    """Average a gradient over the devices of a pmap, each with its share of a batch."""

    def mean(
        key: Key, params: Params, batch: Batch, context: StepContext
    ) -> tuple[Array, Params]:
        size = len(jax.tree.leaves(batch)[0])
        first = jax.lax.axis_index(axis) * size
        total = jax.lax.axis_size(axis) * size
        with part_of_batch(first + jnp.arange(size), total, axis):
            found = gradient(key, params, batch, context)
        return jax.lax.pmean(found, axis)

    return mean


def make_train_step(
    gradient: Gradient,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    ema_halflife_steps: float,
    ema_rampup_ratio: float,
    project: Callable[[Params], Params] = lambda params: params,
    power_ema_stds: Sequence[float] = (),
    target_decay: Callable[[Array], Array] | None = None,
) -> TrainStep:
    """Make the pure step (state, batch, companions={}) -> (state, metrics).

    Its randomness is a function of (seed, step, example). Metrics are the mean loss,
    the norm of the gradient before clipping, and whether the update was left out since
    one of them is not finite: the state is then that before the step. The parameters
    are projected first, as those of a network that keeps its weights normalised
    (`Network.project`). With a `target_decay`, a function of the number of steps taken
    with this one, the state's target is that share of itself, and for the rest the new
    parameters.

    A batch may say under `STOP`, [batch], whether the host of each example wants to
    stop; the metrics then tell every host whether any does.
    """

    def train_step(
        state: TrainState,
        batch: Batch,
        companions: Mapping[str, Params] = NO_COMPANIONS,
    ) -> tuple[TrainState, Metrics]:
        key = jr.fold_in(jr.key(seed), state.step)
        params = project(state.params)
        context = StepContext(state.step, state.ema_params, companions, state.target)
        value, slope = gradient(key, params, batch, context)
        updates, opt_state = optimizer.update(slope, state.opt_state, params)
        params = optax.apply_updates(params, _of_trained(updates))
        decay = ema_decay(
            state.step, halflife_steps=ema_halflife_steps, rampup_ratio=ema_rampup_ratio
        )
        ema_params = averaged(params, state.ema_params, 1 - decay)
        power_emas = tuple(
            averaged(params, old, power_rate(state.step, std))
            for std, old in zip(power_ema_stds, state.power_emas, strict=True)
        )
        target = state.target
        if target_decay is not None:
            rate = 1 - target_decay(state.step + 1)
            target = averaged(params, target, rate)
        norm = optax.tree.norm(_of_all_but_statistics(slope))
        good = jnp.isfinite(value) & jnp.isfinite(norm)
        new = TrainState(state.step, params, ema_params, opt_state, power_emas, target)
        kept = jax.tree.map(lambda now, old: jnp.where(good, now, old), new, state)
        metrics = {"loss": value, "gradient_norm": norm, "skipped": ~good}
        if STOP in batch:
            metrics[STOP] = batch[STOP].max()
        return kept._replace(step=state.step + 1), metrics

    return train_step


def _of_all_but_statistics(gradient: Params) -> list[Array]:
    """The arrays of a gradient but those of statistics, which are no slopes."""
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    return [array for path, array in leaves if not is_statistic(path)]


def _of_trained(updates: Params) -> Params:
    """Updates without those of frozen parameters, which may decay like all weights."""

    def one(path: tuple[Any, ...], update: Array) -> Array:
        return jnp.zeros_like(update) if is_frozen(path) else update

    return jax.tree_util.tree_map_with_path(one, updates)
