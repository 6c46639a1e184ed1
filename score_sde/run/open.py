"""A trained run, opened for what it is for: its denoiser, samples, likelihoods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from score_sde import conditions
from score_sde.data import Dataset
from score_sde.flow_map import FlowMap
from score_sde.likelihood import LogProb
from score_sde.run import companions
from score_sde.run.build import ConfigError, build, check_grid
from score_sde.run.companions import Loaded
from score_sde.run.experiment import EARLIER, Experiment
from score_sde.run.likelihoods import class_log_probs, scorer
from score_sde.run.making import Maker
from score_sde.run.model import denoiser, jump, with_companions
from score_sde.run.objective import Objective
from score_sde.run.paths import OF_SAMPLES, differences, without
from score_sde.run.same_run import inputs_of
from score_sde.run.sample import (
    Samples,
    as_stage,
    draw_samples,
    sample_keys,
    sampled_model,
    told_samples,
)
from score_sde.run.sections import CHAIN_FIELDS, complete
from score_sde.run.train import initial_params
from score_sde.runtime.folder import read_config
from score_sde.runtime.mesh import start_devices
from score_sde.samplers import Sampler
from score_sde.sde import SDE
from score_sde.training.restore import restored_average
from score_sde.types import Array, Denoise, Key, Params, UserError

SAMPLES, DENOISER, AUTOENCODER = "samples", "denoiser", "autoencoder"
LIKELIHOOD = "likelihood"
NEEDS: dict[str, Callable[[Objective], bool]] = {
    SAMPLES: lambda o: o.trains_denoiser or o.trains_jumps,
    DENOISER: lambda o: o.trains_denoiser,
    AUTOENCODER: lambda o: o.trains_autoencoder,
    LIKELIHOOD: lambda o: o.trains_denoiser or o.learns_divergence,
}
"""What a run may have to be of use -> whether its objective trains it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A trained run. `config` and `experiment` say what it is; the rest uses it.

    What `sample` and `log_prob` compile is kept with it, for each number of examples.
    """

    config: Mapping[str, Any]
    experiment: Experiment
    step: int
    """The step of its checkpoint."""
    params: Params
    """The averaged parameters, with those of the companions it uses."""
    digest: str
    """A checksum of its own parameters."""
    companions: Loaded
    earlier: Run | None = None
    """The stage of a cascade that draws the small pictures which this run is told."""

    @property
    def stages(self) -> tuple[Run, ...]:
        """All stages of a cascade from the first to this one; itself without any."""
        return (*(self.earlier.stages if self.earlier else ()), self)

    @property
    def denoiser(self) -> Denoise:
        """The trained denoiser D(x, sigma, cond=None), without guidance.

        Raises: ValueError for a student of few steps that is none.
        """
        return denoiser(self.experiment.model, self.params)

    @property
    def jump(self) -> FlowMap:
        """The trained jump G(x, sigma, sigma_next, cond=None), see `flow_map`.

        Of a run that trained a denoiser it ignores sigma_next.
        """
        return jump(self.experiment.model, self.params)

    @property
    def guided(self) -> Denoise | FlowMap:
        """The model that samples are drawn from: the guided denoiser, or a jump."""
        return sampled_model(
            self.experiment.model,
            self.experiment.drawing,
            self.params,
            self.companions.offers,
        )

    @property
    def sde(self) -> SDE:
        """The SDE of the run."""
        return self.experiment.model.sde

    @property
    def dataset(self) -> Dataset:
        """The data of the run, opened when they are read."""
        return self.experiment.dataset

    @property
    def sampler(self) -> Sampler:
        """The sampler of the run."""
        return self.experiment.drawing.sampler

    @property
    def sigmas(self) -> Array:
        """The grid of noise levels that samples are drawn on."""
        return self.experiment.drawing.grid()

    def sample(self, count: int, *, first: int = 0) -> Samples:
        """Draw the samples with numbers first, first + 1, ..., as the programs do.

        `levels` are in the units that the data came in, as `score-sde sample` writes
        them; `points` as the model sees them, and as `dataset` has its rows.
        """
        index = first + np.arange(count)
        drawn: Samples | None = None
        points: Any = None
        labels: Any = None
        for number, (stage, (experiment, draw)) in enumerate(
            zip(self.stages, self._draws, strict=True)
        ):
            cond = told_samples(experiment, index, points, labels)
            labels = (cond or {}).get("label")
            keys = sample_keys(experiment.seed, first, count, stage=number)
            drawn = draw(stage.params, keys, cond)
            points = drawn.points
        assert drawn is not None
        return drawn._replace(levels=self.experiment.shown.to_units(drawn.levels))

    @cached_property
    def _draws(self) -> list[tuple[Experiment, Callable[..., Samples]]]:
        """Each stage as it is drawn, and its function of (params, keys, cond)."""
        found: list[tuple[Experiment, Callable[..., Samples]]] = []
        for number, stage in enumerate(self.stages):
            following = self.stages[number + 1 : number + 2]
            experiment = as_stage(stage.experiment, *(r.experiment for r in following))
            offers = stage.companions.offers
            draw = partial(
                draw_samples, experiment.model, experiment.drawing, offers=offers
            )
            found.append((experiment, jax.jit(draw)))
        return found

    def log_prob(self, rows: Mapping[str, Any], *, first: int = 0) -> LogProb:
        """Log-probabilities of examples {"values": [batch, *shape], ...}, in nats.

        Values are as the rows of `dataset` have them; the log-density is that in the
        units that the data came in, as `score-sde likelihood` writes it. Noise and
        probes are those of the examples with numbers first, first + 1, ...

        Of stored levels they are log p(x) - log q(x given levels), the width of the
        bins in q: bits/dim are `bits_per_dim(nats, num_dims, num_levels=None)`.

        Of a student that learned the divergence of its jumps, by a few of these. Of a
        cascade, of this stage alone, given what the one before it draws: `stages` has
        the others, and `score-sde likelihood` adds them.
        """
        cond = conditions.of_examples(self.experiment.model.conditions, rows)
        keys, values = self._keys(rows, first), rows["values"]
        found = self._score(self.params, *keys, values, cond, np.float32(1))
        return found._replace(nats=found.nats - self.experiment.scored.log_scale)

    def class_log_probs(self, rows: Mapping[str, Any], *, first: int = 0) -> Array:
        """log p(x given class) of examples under every class, [batch, classes].

        In nats, as by `log_prob`, with the same points and probes under all classes.
        With equal priors, Bayes' rule makes of them the logits of a classifier.

        Raises: ValueError for a model that is told no class.
        """
        keys, values = self._keys(rows, first), rows["values"]
        told = [
            conditions.of_examples(
                self.experiment.model.conditions,
                {"values": values, "label": np.full(len(values), label, np.int32)},
            )
            for label in range(min(2, self.experiment.dataset.num_classes))
        ]
        if len(told) < 2 or jax.tree.all(jax.tree.map(np.array_equal, *told)):
            raise ValueError("class_log_probs: this model is told no class.")
        found = self._score_classes(self.params, *keys, values)
        return found - self.experiment.scored.log_scale

    def _keys(self, rows: Mapping[str, Any], first: int) -> tuple[Key, Key]:
        """The keys of the points and of the probes of examples."""
        keys = sample_keys(self.experiment.seed, first, len(rows["values"]))
        fold: Callable[..., Any] = jax.vmap(jax.random.fold_in, in_axes=(0, None))
        return fold(keys, 0), fold(keys, 1)

    @cached_property
    def _score_classes(self) -> Callable[..., Array]:
        experiment = self.experiment
        score = partial(class_log_probs, experiment.model, experiment.likelihood)
        return jax.jit(partial(score, num_classes=experiment.dataset.num_classes))

    @cached_property
    def _score(self) -> Callable[..., LogProb]:
        return jax.jit(scorer(self.experiment))


def open_run(
    workdir: str | Path,
    config: Mapping[str, Any] | None = None,
    *,
    hosts: Mapping[str, Any] | None = None,
    step: int = 0,
    needs: str = SAMPLES,
) -> Run:
    """Open a trained run.

    Args:
        workdir: its folder.
        config: another config than the one in the folder, such as one with another
            sampler; None for that one.
        hosts: how to find the other hosts, see `runtime.mesh.start_devices`.
        step: of the checkpoint; 0 for the newest.
        needs: what it must have trained: "samples", by a denoiser or by jumps,
            "denoiser", "autoencoder", "likelihood", by a denoiser or by jumps that know
            their divergence, or "" for anything.

    Raises:
        UserError: if there is no run, no good checkpoint, or not that in it.
    """
    workdir = Path(workdir)
    whole = complete(read_config(workdir) if config is None else config)
    is_other = config is not None and (workdir / "config.json").is_file()
    try:
        experiment = build(whole)
    except ConfigError:
        if is_other:  # of other examples the network has much to say, beside the point
            trained = complete(read_config(workdir))
            _check_shape(workdir, trained, whole, Maker(whole).all()["data"][1])
        raise
    if is_other:
        _check_model(workdir, whole, experiment)
    if needs and not NEEDS[needs](experiment.objective):
        name = whole["objective"]["name"]
        part = DENOISER if needs in (SAMPLES, LIKELIHOOD) else needs
        raise UserError(
            f"{workdir} was trained by objective {name!r}: it has no {part}."
        )
    start_devices(hosts)
    return _opened(workdir, whole, experiment, step)


def _opened(
    workdir: Path, whole: Mapping[str, Any], experiment: Experiment, step: int
) -> Run:
    """Restore a run whose experiment was built, and the stages before it."""
    check_grid(experiment)
    roles = (*experiment.training_roles, *experiment.drawing.roles)
    loaded = companions.load(experiment, roles)
    like = jax.eval_shape(lambda: initial_params(experiment, loaded.params))
    found, params, digest = restored_average(workdir / "checkpoints", like, step=step)
    whole_params = with_companions(params, loaded.params)
    earlier = None
    if where := experiment.companions.get(EARLIER):
        config = companions.config_of(where)
        _check_model(Path(where.run), config, other := build(config))
        earlier = _opened(Path(where.run), config, other, where.step)
    return Run(whole, experiment, found, whole_params, digest, loaded, earlier)


def _check_model(
    workdir: Path, config: Mapping[str, Any], experiment: Experiment
) -> None:
    """Refuse a config that gives the trained network another meaning.

    Sampler, grid, SDE, and all that a result may vary are free, and other data with
    examples of the same shape.
    """
    trained = complete(read_config(workdir))
    _check_shape(workdir, trained, config, experiment.dataset)
    fixed = {"network", "precondition", "conditions", "data.sigma_data"}
    bound = getattr(experiment.model.precondition, "keywords", {})
    if experiment.objective.bounds_chain or set(CHAIN_FIELDS) & set(bound):
        fixed.add("chain")
    old, new = (
        {
            path: value
            for path, value in without(side, OF_SAMPLES).items()
            if path in fixed or path.split(".")[0] in fixed
        }
        for side in (trained, config)
    )
    rows = differences(old, new)
    if rows:
        raise UserError(
            f"the run in {workdir} was trained with another network, or another "
            "meaning of its output:\n" + "\n".join(rows)
        )


def _check_shape(
    workdir: Path, trained: Mapping[str, Any], config: Mapping[str, Any], dataset: Any
) -> None:
    """Refuse data whose examples are of another shape than those trained on.

    Args:
        workdir: of the run.
        trained: the config that the run was trained with.
        config: that names the data.
        dataset: its data; what is none has no shape, and is left to others.
    """
    known = inputs_of(workdir).get("data", {}).get("format", trained["data"])
    seen, given = known.get("shape"), getattr(dataset, "shape", None)
    if seen and given and tuple(seen) != tuple(given):
        raise UserError(
            f"the run in {workdir} was trained on examples of shape {tuple(seen)}; "
            f"those of data.name {config['data']['name']!r} have {tuple(given)}."
        )
