"""What the sweeps run over: every registered piece, and problems with known answers."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import oracles
from score_sde.sde import SDES

GOLDEN = Path(__file__).parent / "golden"

ALL_SDES = [make() for make in SDES.values()]


def name_of(case):
    return type(case).__name__


def unless(is_quick, cases):
    """The cases as parameters, slow unless they are quick ones."""
    return [
        pytest.param(case, marks=() if is_quick(case) else pytest.mark.slow)
        for case in cases
    ]


ONE_SDE = unless(lambda sde: name_of(sde) == "EDM", ALL_SDES)
SOME_SDES = unless(lambda sde: name_of(sde) in ("VP", "EDM"), ALL_SDES)
"""All of them among the slow tests, one or two by default."""


def golden(group):
    """(cases, arrays) of numbers that a peer's own code produced; see golden/README."""
    cases = json.loads((GOLDEN / f"{group}.json").read_text())
    return cases, np.load(GOLDEN / f"{group}.npz")


def golden_weights(name):
    """The weights of a small published network: published name -> array.

    Whole multiples of a power of two, an exponent for each tensor (-1: stored apart),
    the low and the high bytes of all of them together.
    """
    file = np.load(GOLDEN / f"nets/{name}.weights.npz")
    flat = np.ascontiguousarray(file["planes"].T).view("<i2").ravel()
    arrays, start = {}, 0
    rows = zip(file["names"], file["shapes"], file["exponents"], strict=True)
    for key, sides, exponent in rows:
        if exponent < 0:
            arrays[str(key)] = file[key]
            continue
        shape = tuple(int(n) for n in sides if n)
        stop = start + int(np.prod(shape))
        whole = flat[start:stop].astype(np.float32).reshape(shape)
        arrays[str(key)], start = np.ldexp(whole, -int(exponent)), stop
    return arrays


def close(result, expected, tolerance):
    """Whether a result is within the tolerance that came with a reference number."""
    result, expected = np.asarray(result), np.asarray(expected)
    bound = tolerance["atol"] + tolerance["rtol"] * np.abs(expected)
    return result.shape == expected.shape and bool(
        (np.abs(result - expected) <= bound).all()
    )


def problems_file():
    """What `problems.json` says: two distributions, and small networks on them."""
    return json.loads((GOLDEN / "problems.json").read_text())


def problems():
    """The two data distributions of the reference numbers."""
    made = problems_file()
    mixture, gaussian = made["gmm2"], made["gauss4"]
    covariance = mixture["std"] ** 2 * np.eye(2)
    return {
        "gmm2": oracles.GaussianMixture(
            jnp.asarray(mixture["means"]),
            jnp.asarray(np.tile(covariance[None], (3, 1, 1))),
            jnp.asarray(mixture["weights"]),
        ),
        "gauss4": oracles.Gaussian(
            jnp.asarray(gaussian["mean"]), jnp.asarray(gaussian["cov"])
        ),
    }


MIXTURE, GAUSSIAN = problems().values()


def labelled():
    """Six Gaussians on a grid, whose rows and columns are classes.

    Row and column are independent, given a point with noise too.
    """
    heights, widths = np.asarray([0.2, 0.3, 0.5]), np.asarray([0.6, 0.4])
    rows, columns = np.divmod(np.arange(6), 2)
    means = np.stack([np.asarray([-1.0, 1.0])[columns], rows - 1.0], axis=1)
    spread = np.stack([[0.04, 0.09][c] for c in columns]), 0.01 * (1 + rows)
    covariances = np.stack([np.diag(s) for s in zip(*spread, strict=True)])
    members = np.concatenate(
        [rows[None] == np.arange(3)[:, None], columns[None] == np.arange(2)[:, None]]
    )
    return oracles.LabelledMixture(
        *map(jnp.asarray, (means, covariances, heights[rows] * widths[columns])),
        jnp.asarray(members, jnp.float64),
    )


LABELLED = labelled()
