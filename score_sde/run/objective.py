"""Objectives: a loss of each example, and what it needs of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from score_sde.conditions import Rows
from score_sde.fields import settings
from score_sde.flow_map import ANYWHERE, Reach
from score_sde.run.model import (
    Model,
    denoiser,
)
from score_sde.training.optimizer import Optimizer
from score_sde.types import Array, Denoise, Key, Params


class Batch(NamedTuple):
    """The examples of a training step, ready for an objective."""

    x0: Array
    """Points, [batch, *shape]."""
    cond: Any
    """What the network is told of them; None for nothing."""
    rows: Rows
    """The examples as the data are stored, with their labels if there are any."""


class Context(NamedTuple):
    """The context of an objective: all that it may use beside parameters and batch."""

    model: Model
    step: Array
    """Steps taken so far."""
    average: Params
    """The moving average of the parameters."""
    companions: Mapping[str, Any]
    """Role -> what that run offers: a denoiser, or the log_prob of a classifier."""
    dropout_key: Key | None
    """Key of the dropout in this step."""
    target: Params = ()
    """The parameters that follow, of an objective with a `target_decay`."""
    num_steps: int = 1
    """Steps of the whole training."""
    prepared: Mapping[str, Any] = MappingProxyType({})
    """What the objective prepared before the first step."""

    def denoiser(self, params: Params) -> Denoise:
        """The denoiser with these parameters and the dropout of this step."""
        return denoiser(self.model, params, dropout_key=self.dropout_key)


@settings
class Objective:
    """A loss, and what it needs. The class of a function is `FromFunction`."""

    companions: ClassVar[tuple[str, ...]] = ()
    """Roles of the runs that it uses."""
    denoisers: ClassVar[tuple[str, ...]] = ()
    """Roles among them whose runs must have trained a denoiser."""
    trains_denoiser: ClassVar[bool] = True
    """Whether the trained network makes a denoiser, to be sampled and scored."""
    trains_jumps: ClassVar[bool] = False
    """Whether samples are drawn by its jumps, see `flow_map`."""
    two_levels: ClassVar[bool] = False
    """Whether the network must be told where a jump ends."""
    learns_divergence: ClassVar[bool] = False
    """Whether the network learns the divergence of its jumps, so that a likelihood
    takes a few of them."""
    most_jumps: ClassVar[int | None] = None
    """How many jumps such a likelihood may take; None for any number."""
    depends_on_num_steps: ClassVar[bool] = False
    """Whether the loss of a step depends on how many there will be."""
    has_levels: ClassVar[bool] = False
    """Whether it has `middle_levels` and `loss_by_level`."""
    bounds_chain: ClassVar[bool] = False
    """Whether the bound that is reported is the discrete chain's."""
    trains_autoencoder: ClassVar[bool] = False
    """Whether the trained network is an autoencoder, to encode and decode."""

    @property
    def needs_whole_batch(self) -> bool:
        """Whether the loss of an example depends on the others of its batch."""
        return False

    def open(self) -> None:
        """Read or train what the loss needs, outside of any compiled function."""

    def scored(self) -> Objective:
        """The objective whose loss of held-out examples is followed."""
        return self

    def estimated(self) -> Objective:
        """The objective whose cost is estimated, without any file or any data."""
        return self

    def optimizers(self, main: Optimizer) -> dict[str, Optimizer]:
        """The optimiser of each group of parameters that has one of its own."""
        del main
        return {}

    def init(self, key: Key, model: Model) -> Params:
        """The parameters that it learns beside the network's, a dict."""
        del key, model
        return {}

    def problems(self, model: Model) -> list[str]:
        """Say why it can't train this model on its data, a text each."""
        del model
        return []

    def reach(self) -> Reach:
        """The jumps that the network is trained for."""
        return ANYWHERE

    def start(self, params: Params, companions: Mapping[str, Params]) -> Params:
        """The network's parameters before the first step, given initial ones.

        Args:
            params: as the network starts.
            companions: role -> the parameters of other runs, or their shapes.
        """
        del companions
        return params

    def target_decay(self, num_steps: int) -> Callable[[Array], Array] | None:
        """The decay of `Context.target` as a function of the step; None without one.

        Args:
            num_steps: of the whole training.
        """
        del num_steps
        return None

    def prepare(self, context: Context, cond: Callable[[Any], Any], seed: int) -> Any:
        """Compute what is kept from before the first step on: a dict of arrays.

        Args:
            context: of the first step.
            cond: numbers of samples -> what they are told, or None.
            seed: of the config.
        """
        del context, cond, seed
        return {}

    def offer(self, model: Model, params: Params) -> Any:
        """Offer the denoiser of a run that it trained to others."""
        return denoiser(model, params)

    def flow(
        self,
        model: Model,
        params: Params,
        offers: Mapping[str, Callable[[Params], Any]],
    ) -> Denoise:
        """The denoiser whose probability flow its likelihood is, or approximates.

        Args:
            model: that it trained.
            params: of the model, with those of its companions.
            offers: role -> (parameters -> what that run offers).
        """
        del offers
        return denoiser(model, params)

    def middle_levels(self, num_levels: int) -> Array:
        """The middles of equal shares of the noise levels of training, [num_levels]."""
        raise NotImplementedError

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
        """The loss at each of the `middle_levels`, [batch, num_levels]."""
        raise NotImplementedError

    def __call__(
        self, key: Key, params: Params, batch: Batch, context: Context
    ) -> Array:
        """The loss of each example, [batch]."""
        raise NotImplementedError


@settings
class FromFunction(Objective):
    """The objective that a plain function is."""

    function: Callable[..., Array]

    def __call__(
        self, key: Key, params: Params, batch: Batch, context: Context
    ) -> Array:
        return self.function(key, params, batch, context)


def as_objective(made: Any) -> Objective:
    """The objective that a registered class or function made."""
    return FromFunction(made) if isinstance(made, partial) else made
