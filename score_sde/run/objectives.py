"""The objectives of training by name: one loss per example.

An objective is registered in `OBJECTIVES`: a function

    loss(key, params, batch, context, *, options) -> [batch]

or a subclass of `Objective`, which may also have parameters of its own. It is given
`noise_levels` and `weight`, the parts that the sections of these names build, if it has
arguments with these names. Options are keyword-only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde import elbo, losses
from score_sde.arrays import mean_over_data, per_example
from score_sde.fields import settings
from score_sde.guidance import from_logits
from score_sde.networks import LogVariance
from score_sde.noise_levels import NoiseLevels
from score_sde.precondition import make_classifier
from score_sde.rules import Positive
from score_sde.run.model import (
    Model,
    decoder,
    denoiser,
    network_fn,
    reverse_chain,
)
from score_sde.run.objective import Batch, Context, Objective
from score_sde.types import Array, Key, Params


@settings
class Denoising(Objective):
    """The weighted squared error of the denoised data, see `losses.denoising_loss`.

    Attributes:
        noise_levels: where sigma is drawn from.
        weight: of the squared error at each sigma.
        learn_log_variance: whether the loss is divided by its expectation at each noise
            level, which is learned (Karras et al. 2024, eq. 21).
    """

    noise_levels: NoiseLevels
    weight: losses.Weight
    learn_log_variance: bool = False

    has_levels: ClassVar[bool] = True

    def init(self, key: Key, model: Model) -> Params:
        params = {}
        if self.learn_log_variance and not model.network.log_variance:
            params["log_variance"] = LogVariance.init(key)
        learned = self.noise_levels.init()
        if learned is not None:
            params["noise_levels"] = learned
        return params

    def problems(self, model: Model) -> list[str]:
        found, is_bound = [], losses.is_bound(self.weight)
        learned = jax.eval_shape(self.noise_levels.init) is not None
        if (model.points == "variational" or learned) and not is_bound:
            cause = (
                "learned noise levels need" if learned else "variational points need"
            )
            found.append(f"{cause} the weight of the bound, weight.name 'noise'")
        if model.points == "variational" and not self.noise_levels.estimates_bound:
            found.append(
                "variational points need noise levels that estimate the bound, "
                "noise_levels.name 'likelihood_importance' or 'learned'"
            )
        return found

    def __call__(
        self, key: Key, params: Params, batch: Batch, context: Context
    ) -> Array:
        return losses.denoising_loss(
            key,
            context.denoiser(params),
            batch.x0,
            noise_levels=self.noise_levels.with_params(params.get("noise_levels")),
            reference=self.noise_levels.reference,
            weight=self.weight,
            log_variance=self.log_variance(context.model, params),
            cond=batch.cond,
        )

    def log_variance(
        self, model: Model, params: Params
    ) -> Callable[[Array], Array] | None:
        """u(log sigma): the network's own, or the common one; None if not learned."""
        if not self.learn_log_variance:
            return None
        own = model.network.log_variance
        if own is None:
            return partial(LogVariance.apply, params["log_variance"])
        return lambda log_sigma: own(params["network"], log_sigma / 4)

    def middle_levels(self, num_levels: int) -> Array:
        u = (jnp.arange(num_levels, dtype=jnp.float32) + 0.5) / num_levels
        return self.noise_levels.quantile(u)

    def loss_by_level(
        self,
        model: Model,
        params: Params,
        keys: Key,
        x0: Array,
        cond: Any,
        *,
        num_levels: int,
    ) -> Array:
        """The weighted squared error at each of the `middle_levels`.

        Its mean is the loss. The noise of an example is a function of its key.
        """
        sigmas = self.middle_levels(num_levels)
        denoise = denoiser(model, params)

        def at(index: Array) -> Array:
            draw = jax.vmap(lambda key: jr.fold_in(jr.fold_in(key, 1), index))
            eps = per_example(jr.normal, draw(keys), x0)
            sigma = jnp.full(len(x0), sigmas[index])
            error = denoise(x0 + sigmas[index] * eps, sigma, cond) - x0
            return self.weight(sigma) * mean_over_data(error**2)

        return jax.lax.map(at, jnp.arange(num_levels)).T


@settings
class Hybrid(Denoising):
    """The simple loss, and the chain's bound for its variances (Nichol 2021, eq. 16).

    Attributes:
        bound_weight: how much the bound counts.
    """

    bound_weight: Annotated[float, Positive] = 0.001

    bounds_chain: ClassVar[bool] = True

    def problems(self, model: Model) -> list[str]:
        found = []
        if not model.predicts_variance:
            found.append(
                "it needs a network that predicts variances: network.learn_sigma True, "
                "of a network that has it"
            )
        if model.points != "centres":
            found.append(
                f"data.points is {model.points!r}; its decoder, which gives a level "
                "its whole bin, needs 'centres'"
            )
        return found

    def __call__(
        self, key: Key, params: Params, batch: Batch, context: Context
    ) -> Array:
        reverse = reverse_chain(context.model, params, dropout_key=context.dropout_key)
        return elbo.hybrid_loss(
            key,
            reverse,
            batch.x0,
            sigmas=jnp.asarray(context.model.chain, batch.x0.dtype),
            decoder=decoder(context.model),
            bound_weight=self.bound_weight,
            cond=batch.cond,
        )


@settings
class Classification(Objective):
    """-log p(label given x0 + sigma eps), for a classifier that guides a sampler.

    Attributes:
        noise_levels: where sigma is drawn from.
    """

    noise_levels: NoiseLevels

    trains_denoiser: ClassVar[bool] = False

    def problems(self, model: Model) -> list[str]:
        if not model.num_labels:
            return ["the data have no classes to tell apart"]
        return []

    def offer(self, model: Model, params: Params) -> Any:
        return from_logits(self._logits(model, params, None))

    def __call__(
        self, key: Key, params: Params, batch: Batch, context: Context
    ) -> Array:
        return losses.classification_loss(
            key,
            self._logits(context.model, params, context.dropout_key),
            batch.x0,
            batch.rows["label"],
            noise_levels=self.noise_levels,
        )

    def _logits(
        self, model: Model, params: Params, dropout_key: Key | None
    ) -> Callable[..., Array]:
        network = network_fn(model, params, dropout_key)
        return make_classifier(network, model.precondition)


OBJECTIVES: dict[str, Callable[..., Any]] = {
    "denoising": Denoising,
    "hybrid": Hybrid,
    "classification": Classification,
}
"""Name -> a function of (key, params, batch, context), or a subclass of `Objective`."""


def points_cost(model: Model, log_density: Array, x0: Array) -> Array:
    """The cost of variational points in the unit of the loss, [batch].

    The bound is in nats per dimension over the span of log sigma: the loss is a mean.
    """
    sde = model.sde
    span = jnp.log(sde.sigma(sde.t_max) / sde.sigma(sde.t_min))
    return log_density / (math.prod(x0.shape[1:]) * span.astype(x0.dtype))
