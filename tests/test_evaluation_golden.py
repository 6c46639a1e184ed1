"""Metrics against other programs' numbers, and second methods; see golden/README.md."""

import json
from pathlib import Path

import numpy as np
import pytest

from score_sde import evaluation

GOLDEN = Path(__file__).parent / "golden" / "evaluation"
CASES = json.loads((GOLDEN / "metrics.cases.json").read_text())


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "metrics.npz") as file:
        return dict(file)


def cases(function):
    chosen = [case for case in CASES if case["function"] == function]
    return pytest.mark.parametrize("case", chosen, ids=lambda c: c["id"])


def inputs(case, arrays):
    return [arrays[v[1:]] for v in case["in"].values() if str(v).startswith("@")]


def close(case, value, expected):
    assert value == pytest.approx(
        expected, rel=case["tol"]["rtol"], abs=case["tol"]["atol"]
    )


@cases("frechet_distance")
@pytest.mark.parametrize("order", [1, -1])
def test_frechet_distance(case, arrays, order):
    estimate = evaluation.frechet_distance(*inputs(case, arrays)[::order])
    close(case, estimate.value, case["out"]["reference"])
    assert estimate.low <= estimate.value <= estimate.high


@cases("frechet_distance")
def test_frechet_distance_from_moments(case, arrays):
    moments = map(evaluation.moments_of, inputs(case, arrays))
    estimate = evaluation.frechet_distance_of_moments(*moments)
    close(case, estimate.value, case["out"]["symmetric_eigh"])


@cases("fd_infinity")
def test_fd_infinity(case, arrays):
    sizes = tuple(case["in"]["sizes"])
    estimate = evaluation.fd_infinity(*inputs(case, arrays), sizes=sizes, seed=None)
    close(case, estimate.value, case["out"]["fd_infinity"])
    close(case, estimate.parts["slope"], case["out"]["slope"])
    close(case, estimate.parts["largest"], case["out"]["fd"][-1])


@cases("kid")
def test_kernel_distance(case, arrays):
    real, fake = inputs(case, arrays)
    out = case["out"]
    close(case, evaluation.kernel_distance(real, fake).value, out["unbiased_all"])
    least = min(len(real), len(fake))
    for estimator, name in (
        ("unbiased", "unbiased_first_n"),
        ("biased", "biased_first_n"),
        ("paired", "u_statistic_first_n"),
    ):
        first = real[:least], fake[:least]
        estimate = evaluation.kernel_distance(*first, estimator=estimator)
        close(case, estimate.value, out[name])


@cases("kid")
def test_kernel_distance_of_subsets(case, arrays):
    out = case["out"]["torch_fidelity_10_subsets"]
    estimate = evaluation.kernel_distance_of_subsets(
        *inputs(case, arrays), num_subsets=10, subset_size=out["subset_size"]
    )
    close(case, estimate.value, out["mean"])
    close(case, estimate.parts["std"], out["std"])


@cases("prdc")
def test_precision_recall_density_coverage(case, arrays):
    sets, k, out = inputs(case, arrays), case["in"]["k"], case["out"]["reference"]
    for balls, end in (("closed", "le"), ("open", "lt")):
        both = evaluation.precision_recall(*sets, k=k, balls=balls)
        assert both.value == (out[f"precision_{end}"], out[f"recall_{end}"])
    density, coverage = evaluation.density_coverage(*sets, k=k)
    # A sum of counts divided once, where the reference divides each.
    assert density.value == pytest.approx(out["density_lt"], rel=1e-14)
    assert coverage.value == out["coverage_lt"]


@cases("authpct_and_vendi")
def test_authenticity_and_vendi_score(case, arrays):
    real, fake = inputs(case, arrays)
    percent = 100 * evaluation.authenticity(real, fake).value
    close(case, percent, case["out"]["authpct"])
    close(case, evaluation.vendi_score(fake).value, case["out"]["vendi_fake"])


@cases("inception_score")
def test_inception_score(case, arrays):
    (logits,) = inputs(case, arrays)
    for splits in (1, 3, 10):
        for seed, order in ((None, "in_order"), (2020, "shuffled")):
            estimate = evaluation.inception_score(logits, splits=splits, seed=seed)
            mean, std = case["out"][f"splits{splits}_{order}"]
            close(case, estimate.value, mean)
            close(case, estimate.parts["std"], std)
    blocks = evaluation.inception_score(logits, block_size=100)
    close(case, blocks.value, case["out"]["blocks_of_100"])
