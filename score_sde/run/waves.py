"""Waves by which a network sees grey levels: that they fit, and where they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_sde.networks import Network, as_network, reads
from score_sde.precondition import Precondition
from score_sde.run.experiment import Experiment
from score_sde.sde import SDE
from score_sde.types import Array, Key, Params

REACH, NUM_LEVELS = 10.0, 4096
"""Noise is known so far beyond the levels of an SDE, by so many levels."""


def network_told_noise(
    module: Any,
    precondition: Precondition,
    sde: SDE,
    shape: tuple[int, ...],
    cond: Any,
    *,
    share: float = 1.0,
) -> Network:
    """The Network of a module, told the noise in its input if it reads it.

    cond["input_noise"], [batch], is in_ sigma, by a table over the noise condition: it
    rises or falls with sigma.

    Args:
        module: see `as_network`, as are shape and cond.
        precondition: which scales its input and tells it the level.
        sde: whose noise levels there are.
        share: of that in what the network sees, where it is not the input itself.
    """
    if "input_noise" not in (reads(module) or ()):
        return as_network(module, shape, cond)
    blank = {**(cond or {}), "input_noise": np.zeros(1, np.float32)}
    network = as_network(module, shape, blank)

    def of_noise(noise: Array) -> Array:
        ends = (sde.sigma(jnp.asarray(t)) for t in (sde.t_min, sde.t_max))
        low, high = (jnp.clip(s, 1e-6, 1e6) for s in ends)
        sigmas = jnp.geomspace(low / REACH, high * REACH, NUM_LEVELS)
        c = precondition(sigmas)
        order = jnp.argsort(c.noise)
        told, spread = c.noise[order], (share * c.in_ * sigmas)[order]
        return jnp.interp(noise.astype(told.dtype), told, spread).astype(noise.dtype)

    def apply(
        params: Params,
        x: Array,
        noise: Array,
        cond: Any = None,
        *,
        dropout_key: Key | None = None,
    ) -> Array:
        told = {**(cond or {}), "input_noise": of_noise(noise)}
        return network.apply(params, x, noise, told, dropout_key=dropout_key)

    return network._replace(apply=apply)


def waves_note(experiment: Experiment, frequencies: Sequence[float]) -> str | None:
    """A line on waves none of which fits the grey levels, None if one does.

    Args:
        experiment: to be trained.
        frequencies: of the network, `input_frequencies`; () for none.
    """
    model = experiment.model
    if not frequencies or not model.num_levels:
        return None
    # A grey level of a pixel, as the network sees it at the lowest noise.
    scale = model.precondition(model.sde.sigma(model.sde.t_min)).in_
    if model.part is not None and model.part.told is not None:
        scale = scale * model.row_shape[0] / model.shape[0] / 2
    wanted = model.num_levels / float(scale)
    # Over all levels it may be off by half a period.
    if min(abs(f / wanted - 1) for f in frequencies) * model.num_levels < 0.5:
        return None
    return (
        f"note: none of network.input_frequencies {tuple(frequencies)} has a period "
        f"per grey level, {wanted:.5g}: the network can't tell levels apart, which "
        "costs likelihood."
    )
