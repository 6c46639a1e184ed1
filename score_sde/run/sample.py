"""Drawing samples of a trained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh

from score_sde import conditions, data
from score_sde.arrays import example_keys, per_example
from score_sde.flow_map import ANYWHERE, FlowMap
from score_sde.guidance import Perturb
from score_sde.networks import perturbed
from score_sde.run.experiment import Drawing, Experiment
from score_sde.run.model import (
    COMPANIONS,
    Model,
    denoiser,
    denoiser_with_variance,
    jump,
)
from score_sde.runtime.folder import Arrays
from score_sde.runtime.jobs import BY_EXAMPLE, EVERYWHERE, map_examples
from score_sde.runtime.mesh import divisible
from score_sde.samplers import Sampler, sample
from score_sde.types import Array, Denoise, Key, Params

Offers = Mapping[str, Callable[[Params], Any]]
"""Role of a companion -> what it offers as a function of its parameters."""
NO_OFFERS: Offers = {}


class Samples(NamedTuple):
    """Samples; each field has one entry per sample."""

    levels: Array
    """Like the data as they are stored, [batch, *shape]."""
    num_evals: Array
    """Calls of the denoiser."""
    success: Array
    """False where an adaptive sampler gave up or x is not finite."""
    points: Array
    """Before they were rounded to levels, as points of the data from -1 to 1."""


def sampled_model(
    model: Model, drawing: Drawing, params: Params, offers: Offers = NO_OFFERS
) -> Denoise | FlowMap:
    """Return what samples are drawn from: the guided denoiser, or a student's jump.

    The arguments are those of `guided_denoiser`.
    """
    if drawing.sampler.jumps and (model.two_levels or model.reach() != ANYWHERE):
        return jump(model, params)
    return guided_denoiser(model, drawing, params, offers)


def guided_denoiser(
    model: Model, drawing: Drawing, params: Params, offers: Offers = NO_OFFERS
) -> Denoise:
    """The denoiser, guided and corrected.

    Args:
        model: of a config.
        drawing: how it guides, and corrects the denoised data.
        params: with those of the companions that guide.
        offers: what these companions offer.
    """
    own: dict[str, Callable[[], Any]] = {
        "grid": drawing.grid,
        "perturbed": partial(_perturb, model, params),
    }
    roles = {role: offers[role](params[COMPANIONS][role]) for role in drawing.roles}
    roles |= {name: own[name]() for name in drawing.own}
    return drawing.threshold(drawing.guidance(denoiser(model, params), **roles))


def _perturb(model: Model, params: Params) -> Perturb:
    """A function that makes the model's denoiser without parts of its network."""

    def without(skip: Sequence[str], attention: Sequence[str]) -> Denoise:
        network = perturbed(model.network, skip=skip, attention=attention)
        return denoiser(model._replace(network=network), params)

    return without


def bound_sampler(sampler: Sampler, model: Model, params: Params, cond: Any) -> Sampler:
    """Give the sampler what it wants of the network.

    The network's variances are, under guidance, those of the condition, for an
    evaluation more.
    """
    if not sampler.wants:
        return sampler
    predict = denoiser_with_variance(model, params)
    return sampler.bind(variance=lambda x, sigma: predict(x, sigma, cond)[1])


def draw_samples(
    model: Model,
    drawing: Drawing,
    params: Params,
    keys: Key,
    cond: Any,
    *,
    offers: Offers = NO_OFFERS,
) -> Samples:
    """Draw one sample per key, a function of its key and of what it is told alone.

    Args:
        model: of a config.
        drawing: sampler, grid, guidance.
        params: of the model, with those of the companions that guide.
        keys: [batch].
        cond: what each is told, or None.
        offers: what the companions offer.
    """
    sigmas = drawing.grid()
    cond = conditions.in_sampling(
        model.conditions, jax.vmap(lambda key: jr.fold_in(key, 3))(keys), cond
    )
    like = jnp.zeros((len(keys), *model.shape), jnp.float32)
    keys_start, keys_path = jax.vmap(jr.split, out_axes=1)(keys)
    start = sigmas[0].astype(like.dtype) * per_example(jr.normal, keys_start, like)
    result = sample(
        bound_sampler(drawing.sampler, model, params, cond),
        sampled_model(model, drawing, params, offers),
        start,
        sigmas,
        key=keys_path,
        cond=cond,
    )
    # Before levels are made of them: a NaN would be a black pixel.
    points = model.render(params, result.x, cond)
    finite = jnp.isfinite(points.reshape(len(keys), -1)).all(1)
    return Samples(
        data.to_levels(points, num_levels=model.shown_levels),
        jnp.broadcast_to(result.num_evals, finite.shape),
        finite if result.success is None else finite & result.success,
        points,
    )


def as_stage(experiment: Experiment, following: Experiment | None = None) -> Experiment:
    """The experiment as it is sampled for the stage that follows, which may stop it.

    Args:
        experiment: of a stage.
        following: of the stage that is told what it draws; None for the last one.
    """
    level = _told_noise(experiment, following) if following else 0.0
    if not level:
        return experiment
    whole = experiment.drawing.grid

    def until() -> Array:
        sigmas = whole()
        kept = int((np.asarray(sigmas) > level).sum())
        return jnp.append(sigmas[:kept], jnp.asarray(level, sigmas.dtype))

    return experiment._replace(drawing=experiment.drawing._replace(grid=until))


def _told_noise(experiment: Experiment, following: Experiment) -> float:
    """The noise with which the stage that follows is told what this one draws.

    Details of centres were trained beside coarse images that end at t_min, with the
    noise that is left there.
    """
    later, own = following.model, experiment.model
    if later.part is not None and later.points == "centres":
        jumps = experiment.drawing.sampler.jumps  # these can't stop at a level
        return 0.0 if jumps else float(own.sde.sigma(own.sde.t_min))
    small = conditions.small_picture(later.conditions)
    return small.stops_at if small else 0.0


def told_samples(
    experiment: Experiment,
    index: np.ndarray,
    drawn: Any = None,
    labels: np.ndarray | None = None,
) -> Any:
    """The condition of the samples with these numbers, in NumPy.

    Args:
        experiment: of a run.
        index: the numbers of the samples.
        drawn: what an earlier stage drew for them, as points of its data; None for
            small pictures of held-out images.
        labels: the classes that the earlier stage was told; None if it was told none.
    """
    told = experiment.model.conditions
    if drawn is None:
        return conditions.of_samples(told, experiment.dataset, index)
    cond = conditions.of_drawn(told, drawn, index)
    return cond | {"label": labels} if labels is not None and "label" in cond else cond


def make_draw(
    experiment: Experiment,
    mesh: Mesh,
    offers: Offers = NO_OFFERS,
    *,
    stage: int = 0,
    earlier: Arrays | None = None,
    with_points: bool = False,
) -> tuple[int, Callable[[Params, int], Arrays]]:
    """Compile the drawing of a batch of samples.

    Args:
        experiment: whose samples are drawn.
        mesh: devices, each of which draws its share.
        offers: what the companions that guide offer.
        stage: how many stages of a cascade come before.
        earlier: what the stage before drew, of all samples.
        with_points: whether samples are kept as points too, for a stage that follows.

    Returns:
        (size, draw): draw(params, first) gives samples first, first + 1, ... by size,
        the fields of `Samples`, and what each was told: `labels`, `words`, `vectors`,
        `images`.
    """
    model = experiment.model
    size = divisible(experiment.sampling.batch_size, mesh)
    function = partial(draw_samples, model, experiment.drawing, offers=offers)
    compiled = map_examples(function, mesh, EVERYWHERE, BY_EXAMPLE, BY_EXAMPLE)

    def draw(params: Params, first: int) -> Arrays:
        index = np.arange(first, first + size)
        given: list[Any] = [None, None]
        if earlier is not None:  # past the last sample they begin anew
            rows = index % len(earlier["points"])
            given = [earlier[n][rows] if n in earlier else None for n in KEPT]
        cond = told_samples(experiment, index, *given)
        keys = sample_keys(experiment.seed, first, size, stage=stage)
        arrays = jax.device_get(compiled(params, keys, cond))._asdict()
        if not with_points:
            del arrays["points"]
        told = {f"{name.removesuffix('s')}s": a for name, a in (cond or {}).items()}
        return arrays | told

    return size, draw


KEPT = ("points", "labels")
"""What a stage of a cascade is told of the samples of the stage before."""


def sample_keys(seed: int, first: int, count: int, *, stage: int = 0) -> Key:
    """The keys of samples first, first + 1, ...: functions of (seed, index, stage).

    Stages of a cascade draw different noise, of whatever shapes.
    """
    key = jr.key(seed)
    return example_keys(jr.fold_in(key, stage) if stage else key, count, first=first)
