"""Scoring a data set: every example exactly once a pass, several passes, one table."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh

from score_sde import conditions
from score_sde.data import Examples
from score_sde.elbo import Bound
from score_sde.evaluation.report import bits, summary
from score_sde.likelihood import LogProb
from score_sde.run.experiment import Experiment
from score_sde.run.likelihoods import bound_examples, score_examples
from score_sde.run.sample import sample_keys
from score_sde.runtime.folder import Arrays
from score_sde.runtime.jobs import (
    BY_EXAMPLE,
    EVERYWHERE,
    compute_in_parts,
    map_examples,
)
from score_sde.runtime.mesh import divisible
from score_sde.types import Key, Params, UserError

ScoreBatch = Callable[[Key, Any, Any], Any]
"""(keys, values, cond) -> a named tuple of arrays [batch, ...]."""


class Pass(NamedTuple):
    """Which points and which probes of an example, and the tolerance."""

    name: str
    points: int
    probes: int
    tolerance: float = 1.0


class Programs(NamedTuple):
    """What is compiled, once for all passes and splits."""

    solve: Callable[..., Any]
    """(params, keys_data, keys_probe, values, cond, tolerance) -> LogProb."""
    bound: Callable[..., Any]
    """(params, keys_data, keys_noise, values, cond) -> Bound."""


def compile_programs(experiment: Experiment, mesh: Mesh) -> Programs:
    """Compile the solve and the bound."""
    model, settings = experiment.model, experiment.likelihood
    examples = (EVERYWHERE, *[BY_EXAMPLE] * 4)
    of_chain = experiment.objective.bounds_chain
    return Programs(
        map_examples(
            partial(score_examples, model, settings), mesh, *examples, EVERYWHERE
        ),
        map_examples(
            partial(bound_examples, model, settings, of_chain=of_chain),
            mesh,
            *examples,
        ),
    )


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
    """What was computed of the examples of a split, in all passes over them."""

    repeats: list[Arrays]
    """The fields of `LogProb`, and seconds, of each pass over all examples."""
    checks: dict[str, Arrays]
    """Alike, of the first examples solved again, by the name of the pass."""
    bound: Arrays
    """The fields of `Bound`."""
    num_dims: int
    """Numbers of an example, which bits are counted by."""


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

        def score(keys: Key, values: Any, cond: Any) -> LogProb:
            out = programs.solve(
                params,
                _keys(keys, which.points, 0),
                _keys(keys, which.probes, 1),
                values,
                cond,
                tolerance,
            )
            return out._replace(nats=out.nats - log_scale)

        return score

    def bounded(keys: Key, values: Any, cond: Any) -> Bound:
        out = programs.bound(params, _keys(keys, 0, 0), _keys(keys, 0, 2), values, cond)
        return out._replace(decoder=out.decoder + log_scale)

    run = partial(_run, experiment, experiment.scored.split(split), mesh)
    repeats, checked = settings.repeats, min(settings.num_checked, count)
    passes = [Pass(f"repeat{r}", r, r) for r in range(repeats)]
    checks = [
        Pass("fresh_points", repeats, repeats),
        Pass("fresh_probes", 0, repeats),
        Pass("tight", 0, 0, tolerance=0.1),
    ]
    found = {
        p.name: run(solved(p), number, folder / f"{split}_{p.name}")
        for group, number in ((passes, count), (checks, checked))
        for p in group
    }
    terms = run(bounded, count, folder / f"{split}_bound")
    return Passes(
        [found[p.name] for p in passes],
        {p.name: found[p.name] for p in checks},
        terms,
        int(np.prod(experiment.scored.shape)),
    )


def score_split(
    experiment: Experiment, passes: Passes
) -> tuple[Arrays, dict[str, Any]]:
    """(per-example arrays, their summary) of the passes over a split."""
    settings, num_dims = experiment.likelihood, passes.num_dims
    scores = _gather(passes)
    row = summary(
        scores,
        passes.checks,
        num_dims=num_dims,
        is_exact=settings.divergence == "exact",
    )
    row["of"] = what_is_scored(experiment)
    row["errors"] |= _stated_error(scores, num_dims, fixed=settings.num_steps > 0)
    known = [*passes.repeats, *passes.checks.values()]
    row["seconds"] = round(sum(a["seconds"].sum() for a in known), 1)
    return scores, row


def what_is_scored(experiment: Experiment) -> str:
    """What scores are of: "data", "part" of images, "images" by a bound, "latents"."""
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
) -> Arrays:
    """One pass over the first `count` examples."""
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

    return compute_in_parts(path, count=count, size=size, compute=compute)


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
