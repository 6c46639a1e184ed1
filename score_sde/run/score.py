"""Scoring a data set: every example exactly once a pass, several passes, one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh

from score_sde import conditions
from score_sde.data import Dataset, Examples
from score_sde.data.units import num_repeating
from score_sde.elbo import Bound
from score_sde.evaluation.report import against_flow, bits, summary
from score_sde.likelihood import LogProb
from score_sde.run.experiment import Experiment
from score_sde.run.likelihoods import (
    bound_examples,
    decodes_levels,
    score_examples,
    scorer,
)
from score_sde.run.sample import sample_keys
from score_sde.run.settings import Scoring
from score_sde.runtime.folder import Arrays
from score_sde.runtime.jobs import (
    BY_EXAMPLE,
    EVERYWHERE,
    compute_in_parts,
    map_examples,
)
from score_sde.runtime.mesh import divisible
from score_sde.types import Denoise, Key, Params, UserError

ScoreBatch = Callable[[Key, Any, Any], Any]
"""(keys, values, cond) -> a named tuple of arrays [batch, ...]."""


FLOW = "flow"
CHECKS = ("fresh_points", "fresh_probes", "tight")
"""Names of passes: over the flow that jumps approximate, and over a part again."""
JUDGED = 1_000
"""Of so many examples at most it is seen whether their numbers are continuous."""


class Pass(NamedTuple):
    """A pass over examples: its draw of points and of probes, and its tolerance."""

    name: str
    points: int
    probes: int
    tolerance: float = 1.0


class Programs(NamedTuple):
    """The compiled programs, once for all passes and splits."""

    solve: Callable[..., Any]
    """(params, keys_data, keys_probe, values, cond, tolerance) -> LogProb."""
    bound: Callable[..., Any]
    """(params, keys_data, keys_noise, values, cond) -> Bound."""
    flow: Callable[..., Any] | None = None
    """Like `solve`, of the flow that a student scores in a few steps; else None."""


def compile_programs(
    experiment: Experiment, mesh: Mesh, offers: Mapping[str, Any]
) -> Programs:
    """Compile the solve and the bound.

    Args:
        experiment: of the run.
        mesh: on which examples are mapped.
        offers: role -> (parameters -> what that run offers), of the companions.
    """
    model, settings = experiment.model, experiment.likelihood
    objective, examples = experiment.objective, (EVERYWHERE, *[BY_EXAMPLE] * 4)

    def of_flow(params: Params) -> Denoise:
        return objective.flow(model, params, offers)

    solve = map_examples(scorer(experiment), mesh, *examples, EVERYWHERE)
    of_chain = objective.bounds_chain
    bound = partial(bound_examples, model, settings, of_chain=of_chain, flow=of_flow)
    flow = None
    if objective.learns_divergence:
        exact = partial(score_examples, model, settings, flow=of_flow)
        flow = map_examples(exact, mesh, *examples, EVERYWHERE)
    return Programs(solve, map_examples(bound, mesh, *examples), flow)


def num_examples(experiment: Experiment) -> dict[str, int]:
    """Split -> how many of its examples are scored; the splits are opened.

    Raises: UserError for data that are not there, or fewer than likelihood.num_train.
    """
    dataset, num_train = experiment.scored, experiment.likelihood.num_train
    counts = {"test": len(dataset.test)}
    if num_train:
        counts["train"] = num_train
        if num_train > len(dataset.train):
            raise UserError(
                f"likelihood.num_train is {num_train}; {dataset.name} has "
                f"{len(dataset.train)} training examples."
            )
    return counts


class Passes(NamedTuple):
    """The results of all passes over the examples of a split."""

    repeats: list[Arrays]
    """The fields of `LogProb`, and seconds, of each pass over all examples."""
    checks: dict[str, Arrays]
    """Alike, of the first examples solved again, by the name of the pass."""
    bound: Arrays
    """The fields of `Bound`."""
    num_dims: int
    """Numbers of an example, which bits are counted by."""
    flow: Arrays | None = None
    """Like a repeat, over the flow that a student's jumps approximate; else None."""
    repeating: int = 0
    """How many numbers of an example are not continuous, where they should be."""


def pass_over(
    experiment: Experiment,
    programs: Programs,
    params: Params,
    split: str,
    count: int,
    mesh: Mesh,
    folder: Path,
) -> Passes:
    """Score the first `count` examples of a split, or read the parts that are done."""
    settings = experiment.likelihood
    # The density of what a model sees becomes that of the data in the user's units.
    log_scale = experiment.scored.log_scale

    def solved(which: Pass) -> ScoreBatch:
        tolerance = jnp.asarray(which.tolerance, jnp.float32)
        program = programs.flow if which.name == FLOW else programs.solve
        assert program is not None  # `_passes` has no such pass

        def score(keys: Key, values: Any, cond: Any) -> LogProb:
            drawn = _keys(keys, which.points, 0), _keys(keys, which.probes, 1)
            out = program(params, *drawn, values, cond, tolerance)
            return out._replace(nats=out.nats - log_scale)

        return score

    def bounded(keys: Key, values: Any, cond: Any) -> Bound:
        out = programs.bound(params, _keys(keys, 0, 0), _keys(keys, 0, 2), values, cond)
        # Probabilities of levels are the same in all units.
        scale = 0.0 if decodes_levels(experiment.model, settings) else log_scale
        return out._replace(decoder=out.decoder + scale)

    examples = experiment.scored.split(split)
    run = partial(_run, experiment, examples, mesh)
    passes, checks = _passes(settings, in_jumps=programs.flow is not None)
    checked = min(settings.num_checked, count)
    found, last = {}, len(passes) + len(checks) + 1
    for number, p in enumerate((*passes, *checks), start=1):
        found[p.name] = run(
            solved(p),
            checked if p in checks else count,
            folder / f"{split}_{p.name}",
            what=f"{split}, pass {number} of {last}: {p.name}",
        )
    terms = run(
        bounded,
        count,
        folder / f"{split}_bound",
        what=f"{split}, pass {last} of {last}: bound",
    )
    return Passes(
        [found[p.name] for p in passes if p.name != FLOW],
        {p.name: found[p.name] for p in checks},
        terms,
        int(np.prod(experiment.scored.shape)),
        found.get(FLOW),
        _repeating(experiment.scored, examples, count),
    )


def _repeating(dataset: Dataset, examples: Examples, count: int) -> int:
    """Count the numbers of these examples that repeat themselves; 0 for levels.

    Parts of images are on a lattice too, and scored at points around it, as levels are.
    """
    if dataset.stored.num_levels is not None:
        return 0
    return num_repeating(examples[np.arange(min(count, JUDGED))]["values"])


def _passes(settings: Scoring, *, in_jumps: bool) -> tuple[list[Pass], list[Pass]]:
    """The passes over all examples, and over those that are checked."""
    repeats = settings.repeats
    passes = [Pass(f"repeat{r}", r, r) for r in range(repeats)]
    again = Pass("fresh_points", repeats, repeats)
    if in_jumps:
        return [*passes, Pass(FLOW, 0, 0)], [again]
    probes, tight = Pass("fresh_probes", 0, repeats), Pass("tight", 0, 0, tolerance=0.1)
    return passes, [again, probes, tight]


def score_split(
    experiment: Experiment, passes: Passes
) -> tuple[Arrays, dict[str, Any]]:
    """(per-example arrays, their summary) of the passes over a split."""
    settings, num_dims = experiment.likelihood, passes.num_dims
    scores = _gather(passes)
    # Jumps have no probes and no tolerance: such a pass would repeat the first.
    checked = min(settings.num_checked, len(scores["nats"]))
    first = {name: a[:checked] for name, a in passes.repeats[0].items()}
    row = summary(
        scores,
        {name: passes.checks.get(name, first) for name in CHECKS},
        num_dims=num_dims,
        is_exact=settings.divergence == "exact",
    )
    row["of"] = what_is_scored(experiment)
    if passes.repeating:
        row["repeating"] = passes.repeating
    known = [*passes.repeats, *passes.checks.values()]
    if passes.flow is not None:
        row |= against_flow(row, scores, passes.flow, num_dims)
        row["flow"]["of"] = _whose(experiment)
        known.append(passes.flow)
    else:
        fixed = settings.num_steps > 0
        row["errors"] |= _stated_error(scores, num_dims, fixed=fixed)
    row["seconds"] = round(sum(a["seconds"].sum() for a in known), 1)
    return scores, row


def _whose(experiment: Experiment) -> str:
    """Whose flow a student's likelihood is compared with."""
    return "its teacher" if experiment.objective.denoisers else "its own denoiser"


def what_is_scored(experiment: Experiment) -> str:
    """Name what is scored: "data", "part" of images, "images" by a bound, "latents"."""
    if experiment.dataset.part is not None:
        return "part"
    if experiment.dataset.origin is None:
        return "data"
    return "latents" if experiment.model.points_of_images is None else "images"


def _stated_error(scores: Arrays, num_dims: int, *, fixed: bool) -> dict[str, float]:
    """The mean of what the solver states of its error, in bits/dim, where it does.

    It is a bound, as `LogProb.solver_error` is. Steps that are fixed do not obey a
    tolerance, so that it stands in the place of the change at a tenth of it.
    """
    if "solver_error" not in scores:  # of a pass that an earlier version began
        return {}
    stated = scores["solver_error"][scores["success"]]
    if not np.isfinite(stated).all():
        return {}
    error = -float(bits(stated, num_dims).mean())
    return {"solver": error} if fixed else {"solver_bound": error}


def _keys(keys: Key, draw: int, stream: int) -> Key:
    """The keys of one draw of the points (stream 0), probes (1) or noise (2)."""
    return jax.vmap(lambda k: jr.fold_in(jr.fold_in(k, stream), draw))(keys)


def _run(
    experiment: Experiment,
    examples: Examples,
    mesh: Mesh,
    score: ScoreBatch,
    count: int,
    path: Path,
    *,
    what: str,
) -> Arrays:
    """One pass over the first `count` examples, whose bar says `what`."""
    size = divisible(experiment.likelihood.batch_size, mesh)

    def compute(first: int) -> Arrays:
        start = time.monotonic()
        # Past the end the first examples are repeated, and dropped from the result.
        rows = examples[np.arange(first, first + size) % count]
        cond = conditions.of_examples(experiment.model.conditions, rows)
        keys = sample_keys(experiment.seed, first, size)
        result = jax.device_get(score(keys, rows["values"], cond))
        seconds = np.full(size, (time.monotonic() - start) / size)
        return result._asdict() | {"seconds": seconds}

    return compute_in_parts(path, count=count, size=size, compute=compute, what=what)


def _gather(passes: Passes) -> Arrays:
    first, terms, num_dims = passes.repeats[0], passes.bound, passes.num_dims
    nats = np.stack([a["nats"] for a in passes.repeats])
    bound = terms["prior"] + terms["steps"].sum(1) + terms["decoder"]
    return {
        "nats": nats.mean(0),
        "bits_per_dim": bits(nats.mean(0), num_dims),
        "repeats": bits(nats, num_dims),
        "success": np.stack([a["success"] for a in passes.repeats]).all(0),
        "bound": bits(-bound, num_dims),
        **{name: first[name] for name in first if name not in ("nats", "success")},
        **{f"bound_{name}": a for name, a in terms.items() if name != "seconds"},
    }
