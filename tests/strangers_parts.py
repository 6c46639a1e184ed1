"""Parts of a stranger, one of each kind, as a module of theirs would register them."""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import score_sde as ss
from score_sde.conditions import CONDITIONS, Condition
from score_sde.data import DATASETS, Dataset, InMemory
from score_sde.evaluation import FEATURES, METRICS, Estimate
from score_sde.fields import checks_rules
from score_sde.guidance import GUIDANCES, needs_condition
from score_sde.losses import WEIGHTS
from score_sde.measurements import Magnitude, Operator
from score_sde.networks import NETWORKS, Network
from score_sde.noise_levels import NOISE_LEVELS, NoiseLevels
from score_sde.precondition import PRECONDITIONERS, Preconditioner
from score_sde.rules import Positive
from score_sde.run.objectives import OBJECTIVES
from score_sde.run.tasks import TASKS, Task
from score_sde.samplers import SAMPLERS
from score_sde.samplers.grids import GRIDS
from score_sde.samplers.steps import Sampler, Step
from score_sde.sde import SDE, SDES
from score_sde.types import Array


@ss.pytree
class QuadraticTime(SDE):
    """sigma = scale t^2, alpha = 1."""

    scale: Annotated[float, Positive] = 10.0
    t_min: float = 0.02
    t_max: float = 1.0

    def log_alpha(self, t):
        return jnp.zeros_like(jnp.asarray(t, float))

    def sigma(self, t):
        return self.scale * jnp.asarray(t, float) ** 2


@checks_rules
def huge_noise_capped(sigma, *, cap: Annotated[float, Positive] = 25.0) -> Array:
    """A weight."""
    return jnp.minimum(1 / sigma**2, cap) + 1


@ss.pytree
class HalfSteps(Sampler):
    """Euler's method, each step in two halves."""

    ratio: Annotated[float, Positive] = 0.5

    def num_evals(self, sigmas: Array) -> Array:
        return jnp.asarray(2 * (len(sigmas) - 1))

    def step(self, denoise, x, at, draw, state: Any) -> Step:
        del draw
        middle = at.sigma + self.ratio * (at.sigma_next - at.sigma)
        first = denoise(x, at.sigma)
        x = x + (middle - at.sigma) * (x - first) / at.sigma
        second = denoise(x, middle)
        x = x + (at.sigma_next - middle) * (x - second) / middle
        return Step(x, first, state)


def geometric(
    num_steps: Annotated[int, Positive], *, sigma_min, sigma_max, power: float = 1.0
) -> Array:
    """A grid."""
    u = jnp.linspace(0, 1, num_steps) ** power
    sigmas = sigma_max * (sigma_min / sigma_max) ** u
    return jnp.append(sigmas, jnp.zeros_like(sigmas[:1]))


@ss.pytree
class Triangular(NoiseLevels):
    """log sigma on [-width, width], with a triangular density."""

    width: Annotated[float, Positive] = 3.0

    def quantile(self, u):
        low = self.width * (jnp.sqrt(2 * u) - 1)
        high = self.width * (1 - jnp.sqrt(2 * (1 - u)))
        return jnp.exp(jnp.where(u < 0.5, low, high))

    def density(self, sigma):
        distance = jnp.abs(jnp.log(sigma)) / self.width
        return jnp.maximum(1 - distance, 0) / self.width


class Small(nn.Module):
    """A Linen network for any shape; `project` is its own and nothing of ours."""

    width: Annotated[int, Positive] = 8

    @nn.compact
    def __call__(self, x, noise, cond=None, deterministic=True):
        del deterministic
        h = x.reshape(len(x), -1)
        told = [noise[:, None]]
        if cond is not None:
            told += [jnp.asarray(a, x.dtype).reshape(len(x), -1) for a in cond.values()]
        h = self.project(jnp.concatenate([h, *told], -1))
        return nn.Dense(x[0].size)(nn.silu(h)).reshape(x.shape)

    def project(self, h):
        return nn.Dense(self.width)(h)


class SmallNNX(nnx.Module):
    """An NNX network for points."""

    def __init__(self, width: int = 8, *, shape, rngs: nnx.Rngs):
        (dims,) = shape
        kind = {"param_dtype": jnp.float32, "rngs": rngs}
        self.inner = nnx.Linear(dims + 1, width, **kind)
        self.outer = nnx.Linear(width, dims, **kind)

    def __call__(self, x, noise, cond=None):
        del cond
        h = jnp.concatenate([x, noise[:, None]], -1)
        return self.outer(jax.nn.silu(self.inner(h)))


def linear_map(*, shape, gain: Annotated[float, Positive] = 0.1) -> Network:
    """A network of plain functions."""

    def init(key):
        size = int(np.prod(shape))
        return {"w": gain * jax.random.normal(key, (size, size), jnp.float32)}

    def apply(params, x, noise, cond=None, *, dropout_key=None):
        del noise, cond, dropout_key
        return (x.reshape(len(x), -1) @ params["w"]).reshape(x.shape)

    return Network(init, apply)


class Averaging(nn.Module):
    """A network with averages over a batch, which is refused."""

    @nn.compact
    def __call__(self, x, noise, cond=None, deterministic=True):
        del noise, cond
        return nn.BatchNorm(use_running_average=deterministic)(nn.Dense(x.shape[-1])(x))


def plain_scale(sigma, *, floor: Annotated[float, Positive] = 0.3) -> Preconditioner:
    """A preconditioner."""
    total = jnp.hypot(sigma, jnp.full_like(sigma, floor))
    return Preconditioner(
        (floor / total) ** 2, sigma * floor / total, 1 / total, jnp.log(sigma)
    )


@needs_condition()
@checks_rules
def a_bit_further(denoise, *, push: Annotated[float, Positive] = 1.1):
    """Guidance: extrapolate from the model that is told nothing."""

    def guided(x, sigma, cond=None):
        nothing = jax.tree.map(jnp.zeros_like, cond)
        here = denoise(x, sigma, nothing)
        return here + push * (denoise(x, sigma, cond) - here)

    return guided


def towards_teacher(denoise, *, teacher, share: float = 0.5):
    """Guidance that needs another run, whose role is its argument's name."""

    def guided(x, sigma, cond=None):
        mine, theirs = denoise(x, sigma, cond), teacher(x, sigma, cond)
        return mine + share * (theirs - mine)

    return guided


def blobs(*, spread: Annotated[float, Positive] = 0.1) -> Dataset:
    """Two labelled blobs of points in three dimensions."""

    def split(name: str) -> InMemory:
        random = np.random.RandomState(name == "test")
        labels = random.randint(2, size=64).astype(np.int32)
        points = random.normal(size=(64, 3)) * spread + labels[:, None] - 0.5
        return InMemory(points.astype(np.float32), labels)

    return Dataset("blobs", (3,), None, 2, split)


def waves(*, length: Annotated[int, Positive] = 8) -> Dataset:
    """Series of two channels: sines of random phase and size, 20 times too large."""

    def split(name: str) -> InMemory:
        random = np.random.RandomState(name == "test")
        phase = random.uniform(0, 2 * np.pi, (32, 1, 2))
        x = 20 * np.sin(phase + np.arange(length)[None, :, None])
        return InMemory(x.astype(np.float32))

    return Dataset("waves", (length, 2), None, 0, split)


def side(*, dataset: Dataset, offset: Annotated[float, Positive] = 0.5) -> Condition:
    """A condition: on which side of the offset the first coordinate is."""
    del dataset

    def entry(rows):
        values = rows["values"]
        xp = values.__array_namespace__()
        first = values.reshape(len(values), -1)[:, :1]
        return {"side": xp.where(first > offset, 1.0, -1.0).astype(np.float32)}

    return Condition(entry, lambda key, rows: entry(rows))


def absolute_error(key, params, batch, context, *, blur: float = 0.5) -> Array:
    """An objective that is a plain function."""
    eps = jax.random.normal(key, batch.x0.shape, batch.x0.dtype)
    sigma = jnp.full(len(batch.x0), blur, batch.x0.dtype)
    denoise = context.denoiser(params)
    error = denoise(batch.x0 + blur * eps, sigma, batch.cond) - batch.x0
    return jnp.abs(error).reshape(len(error), -1).mean(1) + 0 * jnp.asarray(
        context.step, error.dtype
    )


def mean_shift(real, fake, *, scale: Annotated[float, Positive] = 1.0) -> Estimate:
    """A metric: how far the means are apart."""
    value = scale * float(np.linalg.norm(real.mean(0) - fake.mean(0)))
    return Estimate(value, np.nan, np.nan, None, "none")


def doubled(*, factor: Annotated[float, Positive] = 2.0):
    """Features."""
    return lambda values: np.float32(factor * values.reshape(len(values), -1))


def every_other_row(settings, shape, drawn) -> Operator:
    """A measurement that is known by what it does."""
    del settings, shape, drawn
    return Operator(
        lambda x: x[:, ::2],
        lambda y: jnp.stack([y, 0 * y], axis=2).reshape(len(y), -1, *y.shape[2:]),
    )


SDES["quadratic_time"] = QuadraticTime
WEIGHTS["capped"] = huge_noise_capped
SAMPLERS["half_steps"] = HalfSteps
GRIDS["geometric"] = geometric
NOISE_LEVELS["triangular"] = Triangular
NETWORKS["small"] = Small
NETWORKS["small_nnx"] = SmallNNX
NETWORKS["linear_map"] = linear_map
NETWORKS["averaging"] = Averaging
PRECONDITIONERS["plain_scale"] = plain_scale
GUIDANCES["a_bit_further"] = a_bit_further
GUIDANCES["towards_teacher"] = towards_teacher
DATASETS["blobs"] = blobs
DATASETS["waves"] = waves
CONDITIONS["side"] = side
METRICS["mean_shift"] = mean_shift
FEATURES["doubled"] = doubled
OBJECTIVES["absolute_error"] = absolute_error
TASKS["every_other_row"] = Task(every_other_row)
TASKS["phase"] = Task(lambda settings, shape, drawn: Magnitude())
