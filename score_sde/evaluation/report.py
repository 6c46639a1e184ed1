"""The report of the scores of a data set, with how sure they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def bits(nats: np.ndarray, num_dims: int) -> np.ndarray:
    """Bits/dim of log-probabilities in nats."""
    return np.asarray(-np.float64(nats) / (num_dims * math.log(2)))


def summary(
    scores: Arrays, checks: dict[str, Arrays], *, num_dims: int, is_exact: bool
) -> dict[str, Any]:
    """The row of the table of one split; failed examples are left out.

    Args:
        scores: of each example, 'repeats' among them [repeats, examples].
        checks: the scores of the first examples, solved again.
        num_dims: of one example.
        is_exact: whether the divergence was exact, so that there is no probe.
    """
    good = scores["success"]
    values, repeats = scores["bits_per_dim"][good], scores["repeats"][:, good]
    count = len(values)
    again = {name: bits(a["nats"], num_dims) for name, a in checks.items()}
    num_checked = len(again["tight"])
    sure = good[:num_checked].copy()
    for check in checks.values():
        sure &= check["success"]
    first = scores["repeats"][0, :num_checked][sure]
    again = {name: a[sure] for name, a in again.items()}
    bound = scores["bound"][good]
    row = {
        "bits_per_dim": float(values.mean()),
        "standard_error": _standard_error(values),
        "errors": error_budget(
            values,
            first,
            fresh_points=again["fresh_points"],
            fresh_probes=again["fresh_probes"],
            tight=again["tight"],
            num_repeats=len(repeats),
        ),
        "bound": float(bound.mean()),
        "bound_standard_error": _standard_error(bound),
        "bound_above": bool(bound.mean() >= values.mean()),
        "scored": count,
        "failed": int((~good).sum()),
        "evaluations": float(scores["num_evals"].mean()),
        "images_per_second": float(1 / np.median(scores["seconds"])),
    }
    if is_exact and len(repeats) > 1:
        # Of random traces the mean of exp(nats) is too large; see `dequantisation`.
        nats = -repeats * num_dims * math.log(2)
        log_mean = np.logaddexp.reduce(nats, axis=0) - math.log(len(nats))
        row["importance_weighted"] = float(bits(log_mean, num_dims).mean())
    return row


def against_flow(
    row: dict[str, Any], scores: Arrays, flow: Arrays, num_dims: int
) -> dict[str, Any]:
    """Compare a student's scores by jumps with the exact ones: entries of its row.

    Both are of the same points, so that what the examples differ by cancels; the probes
    of the flow do not, and are in the error of the difference.

    Args:
        row: of `summary`.
        scores: of each example by jumps, 'repeats' among them [repeats, examples].
        flow: of each example by the flow, at the points of the first repeat.
        num_dims: of one example.
    """
    good = scores["success"] & flow["success"]
    exact = bits(flow["nats"][good], num_dims)
    difference = scores["repeats"][0][good] - exact
    kept = {name: row["errors"][name] for name in ("data", "dequantisation")}
    return {
        "errors": kept,
        "bound_above": bool(row["bound"] >= exact.mean()),
        "flow": {
            "bits_per_dim": float(exact.mean()),
            "standard_error": _standard_error(exact),
            "difference": float(difference.mean()),
            "difference_standard_error": _standard_error(difference),
            "evaluations": float(flow["num_evals"].mean()),
            "compared": len(exact),
        },
    }


def error_budget(
    values: np.ndarray,
    first: np.ndarray,
    *,
    fresh_points: np.ndarray,
    fresh_probes: np.ndarray,
    tight: np.ndarray,
    num_repeats: int,
) -> dict[str, float]:
    """Standard errors of the mean of `values`, by source, in their unit.

    Two solves of an example with other probes differ by twice the variance of a probe;
    with other points too, by twice that of both. What is left of the variance between
    examples is the data's. The solver's is no noise: the mean change at a tenth of the
    tolerance, or how well that mean is known if that is more.

    Args:
        values: the mean over num_repeats solves of each example.
        first: one solve of the examples that were solved again.
        fresh_points: another solve of these, with other points and probes.
        fresh_probes: another, with the same points and other probes.
        tight: another, with the same points and probes at a tenth of the tolerance.
        num_repeats: of `values`.
    """
    probe = 0.5 * float(((first - fresh_probes) ** 2).mean())
    both = 0.5 * float(((first - fresh_points) ** 2).mean())
    points = max(0.0, both - probe)
    within = (points + probe) / num_repeats
    data = max(0.0, float(values.var(ddof=1)) - within)
    change = tight - first
    solver = max(abs(float(change.mean())), _standard_error(change))
    count = len(values)
    return {
        "data": math.sqrt(data / count),
        "dequantisation": math.sqrt(points / (num_repeats * count)),
        "probe": math.sqrt(probe / (num_repeats * count)),
        "solver": solver,
    }


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """All splits as text, a few lines each."""
    return "\n".join(_lines(split, row) for split, row in rows.items())


UNITS = {
    "part": (
        "bits for each number of this part of the images, by the flow",
        "bits for each number of this part, the variational bound",
    ),
    "cascade": (
        "bits/dim of the images by the flows of all stages",
        "bits/dim of the images, the variational bounds of all stages",
    ),
    "data": ("bits/dim by the flow", "bits/dim, the variational bound"),
    "images": (
        "bits/dim of images, a bound by flow and autoencoder",
        "bits/dim of images, by the variational bound of the latents",
    ),
    "latents": (
        "bits for each number of the latents, by the flow; not of images",
        "bits for each number of the latents, the variational bound",
    ),
}
"""What is scored -> how its two numbers are called."""


def _lines(split: str, row: dict[str, Any]) -> str:
    # A part that is 0 is not there: no levels, an exact divergence, too few to tell.
    errors = ", ".join(f"{name} {e:.4f}" for name, e in row["errors"].items() if e)
    # The reverse SDE and its decoder are a model of their own, which may fit better.
    verdict = f"{'above' if row['bound_above'] else 'BELOW'} that of the flow"
    by_flow, by_bound = UNITS[row.get("of", "data")]
    flow = row.get("flow")
    if flow:
        by_flow = by_flow.replace("the flow", f"{row['evaluations']:.0f} jumps")
    lines = [
        f"{split:>5}: {row['bits_per_dim']:.4f} +- {row['standard_error']:.4f} "
        f"{by_flow} ({errors})",
        f"       {row['bound']:.4f} +- {row['bound_standard_error']:.4f} "
        f"{by_bound}: {verdict}",
        f"       {row['scored']} examples, {row['evaluations']:.0f} evaluations each, "
        f"{row['images_per_second']:.1f} a second, {row['seconds']:.0f} s in all"
        + (f", {row['failed']} FAILED and left out" if row["failed"] else ""),
    ]
    if flow:
        lines.append(f"       {beside_flow(flow)}")
    if repeating := row.get("repeating"):
        lines.append(
            f"       of each example {repeating} numbers take the same few values over "
            "and over: their density has no upper limit, nor have bits/dim a lower one"
        )
    if "importance_weighted" in row:
        lines.append(f"       {row['importance_weighted']:.4f} importance-weighted")
    return "\n".join(lines)


def beside_flow(flow: dict[str, Any]) -> str:
    """How far a number by jumps is from the exact one, of `against_flow`."""
    return (
        f"{flow['difference']:+.4f} +- {flow['difference_standard_error']:.4f} from "
        f"the flow of {flow['of']}, {flow['bits_per_dim']:.4f} +- "
        f"{flow['standard_error']:.4f} in {flow['evaluations']:.0f} evaluations, "
        f"{flow['compared']} examples"
    )


def bound_by_level(scores: Arrays, num_dims: int) -> Arrays:
    """Means over examples at each stratum of log sigma, from the lowest up.

    sigma; loss, bits/dim per unit of log sigma; rate, the bits/dim that it takes to
    come down to sigma; distortion, the root mean squared error of x0 there.
    """
    good = scores["success"]
    log_sigma = np.log(np.float64(scores["bound_sigma"][good])).mean(0)
    steps = bits(-scores["bound_steps"][good].mean(0), num_dims)
    prior = bits(-scores["bound_prior"][good].mean(0), num_dims)
    width = np.gradient(log_sigma) if len(log_sigma) > 1 else np.ones(1)
    return {
        "sigma": np.exp(log_sigma),
        "loss": steps / width,
        "rate": prior + np.cumsum(steps[::-1])[::-1],
        "distortion": np.sqrt(scores["bound_squared_error"][good].mean(0)),
    }
