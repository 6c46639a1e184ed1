"""The objective of autoencoders: reconstruct, keep the latents in bounds, look real.

Every term is a mean over the numbers of an image, so that the weight of a divergence or
a codebook does not depend on its size. A discriminator is trained in the same step, on
its own loss and by its own optimiser: its parameters are a group of their own.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr

from score_sde.arrays import example_keys, expand_like, mean_over_data, per_example
from score_sde.data import Dataset
from score_sde.fields import settings
from score_sde.latents import Coder, Posterior, adversarial, reconstruction
from score_sde.latents.codebook import statistics_term
from score_sde.latents.discriminator import NORMS, PatchDiscriminator, statistics_of
from score_sde.latents.reconstruction import Distance
from score_sde.networks.network import FROZEN_MODULE
from score_sde.rules import NonNegative, Positive, at_least, one_of
from score_sde.run.model import Model
from score_sde.run.objective import Batch, Context, Objective
from score_sde.run.perceptual import (
    PERCEPTUAL,
    encoder_of_file,
    perceptual_problems,
)
from score_sde.training.optimizer import Optimizer
from score_sde.types import Array, Key, Params

CRITIC, SCALE = "discriminator", "log_scale"
"""Where the parameters have the discriminator's, and the log-scale of the pixels."""
NO_CRITIC = "none"


class Codec(NamedTuple):
    """The offer of a trained autoencoder to other runs, its parameters bound."""

    coder: Coder
    params: Params

    def encode(self, x: Array) -> Posterior:
        """The posterior of the latents of images."""
        return self.coder.encode(self.params, x)

    def decode(self, z: Array) -> Array:
        """The images of latents, from about -1 to 1."""
        return self.coder.decode(self.params, z)


@settings
class Autoencoding(Objective):
    """The loss of an autoencoder (Esser et al. 2021; Rombach et al. 2022).

    Attributes:
        dataset: the data, on which a classifier of the features may be trained.
        reconstruction: the error of a pixel, 'l1' or 'l2'.
        perceptual: whose features are compared beside: 'none', 'classifier', trained on
            the data in seconds, 'efficientnet_lite0', of a package, or 'lpips_vgg', of
            files.
        perceptual_weight: of their distance.
        perceptual_weights: of 'lpips_vgg', the file of VGG16; of 'efficientnet_lite0'
            a file, "" for that of its package.
        perceptual_heads: of 'lpips_vgg', the file of its heads, if it is another one.
        encoder_weights: the file of a frozen encoder, of a network that has one.
        learn_scale: whether the scale of the pixels' errors is learned, so that the
            loss is a bound on the likelihood.
        latent_noise: the decoder is trained on latents with noise of a standard
            deviation that is drawn as the size of a normal number of this deviation.
        equivariance_weight: of the error of turned latents, which should give the
            turned image (Kouzelis et al. 2025).
        equivariance_shrink: by how much both are made smaller besides.
        discriminator: its loss, 'hinge' or 'vanilla', or 'none' without one.
        discriminator_weight: of the decoder's adversarial loss, relative to the
            reconstruction's gradient at the last layer.
        discriminator_channels: of its first layer.
        discriminator_layers: halvings of the sides.
        discriminator_norm: 'group' or, as published, 'batch'.
        discriminator_learning_rate: of its own optimiser, AdamW.
        discriminator_start: the step from which it is trained.
        adversarial_start: the step from which the decoder hears of it.
        adversarial_ramp: steps in which its voice grows from nothing.
    """

    dataset: Dataset
    reconstruction: Annotated[str, one_of(reconstruction.ERRORS)] = "l1"
    perceptual: Annotated[str, one_of(PERCEPTUAL)] = "none"
    perceptual_weight: Annotated[float, NonNegative] = 1.0
    perceptual_weights: str = ""
    perceptual_heads: str = ""
    encoder_weights: str = ""
    learn_scale: bool = False
    latent_noise: Annotated[float, NonNegative] = 0.0
    equivariance_weight: Annotated[float, NonNegative] = 0.0
    equivariance_shrink: Annotated[int, at_least(1)] = 1
    discriminator: Annotated[str, one_of((NO_CRITIC, *adversarial.LOSSES))] = NO_CRITIC
    discriminator_weight: Annotated[float, Positive] = 0.5
    discriminator_channels: Annotated[int, at_least(1)] = 64
    discriminator_layers: Annotated[int, at_least(1)] = 3
    discriminator_norm: Annotated[str, one_of(NORMS)] = "group"
    discriminator_learning_rate: Annotated[float, Positive] = 2e-4
    discriminator_start: Annotated[int, NonNegative] = 0
    adversarial_start: Annotated[int, NonNegative] = 0
    adversarial_ramp: Annotated[int, NonNegative] = 1_000

    trains_denoiser: ClassVar[bool] = False
    trains_autoencoder: ClassVar[bool] = True

    @property
    def needs_whole_batch(self) -> bool:
        """Whether the loss of an example depends on the others of its batch."""
        return self.discriminator != NO_CRITIC

    @functools.cached_property
    def distance(self) -> Distance | None:
        """The distance of features, made when it is first asked for."""
        weights = self.perceptual_weights, self.perceptual_heads
        return PERCEPTUAL[self.perceptual](self.dataset, *weights)

    def open(self) -> None:
        """Read or train what the loss needs, outside of any compiled function."""
        _ = self.distance

    def scored(self) -> Autoencoding:
        """The loss of held-out examples: without the game of the discriminator."""
        return dataclasses.replace(self, discriminator=NO_CRITIC)

    def estimated(self) -> Autoencoding:
        """The loss whose cost is estimated: without the network of the features."""
        return dataclasses.replace(self, perceptual="none")

    def init(self, key: Key, model: Model) -> Params:
        params: dict[str, Any] = {}
        if self.needs_whole_batch:
            image = jnp.zeros((1, *model.shape), jnp.float32)
            params[CRITIC] = self._critic(model).init(key, image)["params"]
        if self.learn_scale:
            params[SCALE] = jnp.zeros((), jnp.float32)
        return params

    def start(self, params: Params, companions: Mapping[str, Params]) -> Params:
        del companions
        if FROZEN_MODULE not in params or not self.encoder_weights:
            return params
        shapes = jax.tree.leaves(params[FROZEN_MODULE])
        if any(isinstance(leaf, jax.core.Tracer) for leaf in shapes):
            return params  # nothing but shapes is asked for
        encoder = encoder_of_file(params[FROZEN_MODULE], self.encoder_weights)
        return {**params, FROZEN_MODULE: encoder}

    def optimizers(self, main: Optimizer) -> dict[str, Optimizer]:
        """The optimiser of each group of parameters that has one of its own."""
        if not self.needs_whole_batch:
            return {}
        rate = self.discriminator_learning_rate
        return {CRITIC: dataclasses.replace(main, method="adamw", learning_rate=rate)}

    def problems(self, model: Model) -> list[str]:
        coder = model.network.parts
        if coder is None:
            return ["it needs a network that is an autoencoder, see network.name"]
        found = perceptual_problems(
            self.perceptual, self.perceptual_weights, model.shape, model.num_labels
        )
        if coder.frozen and not self.encoder_weights:
            found.append("encoder_weights must name the file of the frozen encoder")
        if self.encoder_weights and not coder.frozen:
            found.append(
                f"encoder_weights is {self.encoder_weights!r}; the encoder of this "
                "network is trained"
            )
        if model.points == "variational":
            found.append("data.points is 'variational'; choose 'centres' or 'uniform'")
        side = min(side // coder.factor for side in model.shape[:2])
        if self.equivariance_weight and side % self.equivariance_shrink:
            found.append(
                f"equivariance_shrink is {self.equivariance_shrink}; it must divide "
                f"the sides of the latents, {side}"
            )
        if self.needs_whole_batch:
            smallest = self._critic(model).smallest_side
            if min(model.shape[:2]) < smallest:
                found.append(
                    f"discriminator_layers is {self.discriminator_layers}; its patches "
                    f"need images of {smallest} pixels, and they have {model.shape[:2]}"
                )
        return found

    def offer(self, model: Model, params: Params) -> Any:
        return Codec(model.network.parts, params["network"])

    def __call__(
        self, key: Key, params: Params, batch: Batch, context: Context
    ) -> Array:
        coder: Coder = context.model.network.parts
        own, x = params["network"], batch.x0
        key_draw, key_noise, key_turn = jr.split(key, 3)
        options = {"dropout_key": context.dropout_key}
        posterior = coder.encode(own, x, **options)
        num_dims = math.prod(x.shape[1:])
        found = coder.bottleneck(own, key_draw, posterior, num_dims)
        z = self._noised(key_noise, found.latents)
        made = coder.render(own, z, **options)
        loss = self._error(x, made, params) + found.penalty
        if self.equivariance_weight:
            turned, latents = reconstruction.transformed(
                key_turn, x, found.latents, shrink=self.equivariance_shrink
            )
            again = coder.render(own, latents, **options)
            loss += self.equivariance_weight * self._error(turned, again, params)
        if self.needs_whole_batch:
            loss += self._adversarial(params, x, z, made, context)
        return loss

    def _noised(self, key: Key, z: Array) -> Array:
        if not self.latent_noise:
            return z
        keys = example_keys(key, len(z))
        sizes = jnp.abs(jax.vmap(lambda k: jr.normal(jr.fold_in(k, 0)))(keys))
        noise = per_example(
            lambda k, *shape: jr.normal(jr.fold_in(k, 1), *shape), keys, z
        )
        return z + expand_like(self.latent_noise * sizes, z) * noise

    def _error(self, x: Array, made: Array, params: Params) -> Array:
        """The error of reconstructions, a mean over the numbers of each: [batch]."""
        is_whole = self.distance is not None and min(x.shape[1:3]) >= 2
        apart = self.distance(x, made) if self.distance and is_whole else None
        error = reconstruction.errors(
            x,
            made,
            kind=self.reconstruction,
            distance=apart,
            distance_weight=self.perceptual_weight,
        )
        if self.learn_scale:
            scale = params[SCALE].astype(error.dtype)
            error = reconstruction.negative_log_likelihood(error, scale)
        return mean_over_data(error)

    def _critic(self, model: Model) -> PatchDiscriminator:
        return PatchDiscriminator(
            self.discriminator_channels,
            self.discriminator_layers,
            self.discriminator_norm,
            model.shape[-1],
        )

    def _adversarial(
        self, params: Params, x: Array, z: Array, made: Array, context: Context
    ) -> Array:
        """The decoder's loss and the discriminator's, each blind to the other's."""
        critic, own = self._critic(context.model), params[CRITIC]
        fixed, judge = jax.lax.stop_gradient((made, own))

        def of_error(r: Array) -> Array:
            return self._error(x, r, params).mean()

        def of_generator(r: Array) -> Array:
            return adversarial.generator_loss(critic.logits(judge, r)[0]).mean()

        norms = adversarial.last_layer_norms(
            context.model.network.parts,
            params["network"],
            z,
            (jax.grad(of_error)(fixed), jax.grad(of_generator)(fixed)),
            dropout_key=context.dropout_key,
        )
        scale = self.discriminator_weight
        weight = adversarial.adaptive_weight(*norms, scale=scale)
        heard = adversarial.ramp(
            context.step, start=self.adversarial_start, steps=self.adversarial_ramp
        )
        voice = adversarial.generator_loss(critic.logits(judge, made)[0])
        real, moved = critic.logits(own, x)
        fake, moved = critic.logits(moved, fixed)
        learns = adversarial.ramp(context.step, start=self.discriminator_start, steps=0)
        told = learns * adversarial.LOSSES[self.discriminator](real, fake)
        loss = weight * heard.astype(weight.dtype) * voice + told
        if self.discriminator_norm == "batch":
            loss += statistics_term(statistics_of(own), statistics_of(moved))
        return loss
