"""Training a small classifier, in seconds: AdamW, a cosine, whole batches in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.random as jr
import numpy as np

WEIGHT_DECAY = 0.01


def fit_classifier(
    params: Any,
    logits: Callable[..., Any],
    values: np.ndarray,
    labels: np.ndarray,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> Any:
    """Train a classifier by cross-entropy, on one device.

    Every step is a function of (seed, step). Epochs are permutations of the examples.

    Args:
        params: the first parameters.
        logits: (params, x, dropout key) -> logits [batch, classes].
        values: float32 inputs [examples, *dims].
        labels: int32 [examples].
        num_steps: of batches.
        batch_size: examples in each; all of them if there are fewer.
        learning_rate: the highest; it falls to 0 along a cosine.
        seed: of order and dropout.
    """
    import optax

    size = min(batch_size, len(values))
    schedule = optax.cosine_decay_schedule(learning_rate, num_steps)
    optimizer = optax.adamw(schedule, weight_decay=WEIGHT_DECAY)

    @jax.jit
    def step(params: Any, state: Any, x: Any, y: Any, key: Any) -> tuple[Any, Any]:
        def loss(params: Any) -> Any:
            found = logits(params, x, key)
            return optax.softmax_cross_entropy_with_integer_labels(found, y).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    key = jr.key(seed)
    state = jax.jit(optimizer.init)(params)
    per_epoch = len(values) // size
    for number in range(num_steps):
        epoch, place = divmod(number, per_epoch)
        if place == 0:
            order = np.random.default_rng([seed, epoch]).permutation(len(values))
        rows = order[place * size : (place + 1) * size]
        params, state = step(
            params, state, values[rows], labels[rows], jr.fold_in(key, number)
        )
    return jax.device_get(params)
