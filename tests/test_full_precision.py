"""What is published is computed in full precision, on machines that round by default.

GPUs and TPUs round the factors of float32 products unless a product says otherwise. A
CPU doesn't, so that values can't show it: here the products are read off the programs.
"""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import GAUSSIAN, MIXTURE

import score_sde as ss
from score_sde import elbo, measurements, oracles
from score_sde.elbo.terms import gaussian_decoder
from score_sde.likelihood import SOLVERS
from score_sde.resizing import resized

SDE = ss.EDM(t_min=0.01, t_max=10.0)
DOWN = jnp.geomspace(10.0, 0.01, 9)
X = jnp.ones((2, 8, 8, 3), jnp.float32) / 3
WEIGHTS = np.float32(np.eye(3) / 2)
LAWS = [MIXTURE, GAUSSIAN, oracles.PointMasses(jr.normal(jr.key(5), (6, 4)))]
PRODUCTS = ("dot_general", "conv_general_dilated")


def network(x, sigma, cond=None):
    """A denoiser with products that say nothing of their precision."""
    kernel = jnp.ones((3, 3, 3, 3), x.dtype) / 100
    names = ("NHWC", "HWIO", "NHWC")
    h = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=names)
    return x @ jnp.asarray(WEIGHTS, x.dtype) + h


def score(xt, t, cond=None):
    return ss.make_score(network, SDE)(xt, t, cond)


def jaxprs_inside(params):
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else [value]:
            if hasattr(part, "jaxpr"):
                yield part.jaxpr if hasattr(part.jaxpr, "eqns") else part
            elif hasattr(part, "eqns"):
                yield part


def precisions(jaxpr):
    """Of every product in a program, and in the programs inside it."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            found.append(equation.params["precision"])
        for inner in jaxprs_inside(equation.params):
            found += precisions(inner)
    return found


def found_in(function, *args):
    return precisions(jax.make_jaxpr(function)(*args).jaxpr)


def is_full(precision):
    both = precision if isinstance(precision, tuple) else (precision, precision)
    return all(p == jax.lax.Precision.HIGHEST for p in both)


def are_full(found):
    """Whether there are products, each of them in full precision."""
    return bool(found) and all(map(is_full, found))


def reverse(x, sigmas, index, cond):
    return network(x, sigmas[index], cond), jnp.zeros(len(x))


PUBLISHED = {
    **{
        f"log_prob by {solver}": lambda x, solver=solver: (
            ss.log_prob(x, sde=SDE, score=score, key=jr.key(0), solver=solver).nats
        )
        for solver in SOLVERS
    },
    "log_prob at given times": lambda x: (
        ss.log_prob(
            x,
            sde=SDE,
            score=score,
            key=jr.key(0),
            solver="multistep",
            times=DOWN[::-1],
        ).nats
    ),
    "probability flow": lambda x: ss.solve_ode(score, SDE, x).x,
    "reverse SDE": lambda x: ss.solve_sde(jr.key(0), score, SDE, x, times=DOWN).x,
    "continuous bound": lambda x: (
        elbo.continuous_bound(
            jr.key(0), network, x, sigma_min=0.01, sigma_max=10.0
        ).steps
    ),
    "bound of a chain": lambda x: (
        elbo.chain_bound(
            jr.key(0),
            reverse,
            x,
            sigmas=jnp.geomspace(0.01, 10.0, 5),
            decoder=gaussian_decoder,
        ).steps
    ),
}


def test_products_of_the_network_say_nothing_by_themselves():
    found = found_in(lambda x: network(x, 1.0), X)
    assert len(found) == 2
    assert not any(map(is_full, found))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_are_of_full_products(name):
    with jax.enable_x64(False):
        found = found_in(PUBLISHED[name], X)
    assert are_full(found), found


@pytest.mark.parametrize("oracle", LAWS, ids=lambda law: type(law).__name__)
def test_oracles_are_of_full_products(oracle):
    x = jnp.ones((3, 2 if oracle is MIXTURE else 4), jnp.float32)
    sigma = jnp.float32(0.5)
    for function in (oracle.denoise, oracle.log_prob):
        found = found_in(lambda x, function=function: function(x, sigma), x)
        assert all(map(is_full, found))


def test_matrices_and_kernels_of_measurements_are_full_products():
    matrix = measurements.Matrix(np.float32(np.eye(2, 6)))
    resample = measurements.Resample(2)
    cases = [
        (matrix, jnp.ones((2, 6), jnp.float32)),
        (resample, X),
        (measurements.JPEG(50), X),
    ]
    for operator, x in cases:
        found = found_in(operator, x)
        assert are_full(found), operator
    for operator, x in cases[:2]:
        y = operator(x)
        for function in (operator.transpose, operator.project):
            found = found_in(function, y)
            assert are_full(found), operator
    found = found_in(lambda x: resized(x, (4, 4), "bicubic"), X)
    assert are_full(found)


JNP_PRODUCTS = ("dot", "einsum", "inner", "matmul", "tensordot", "vdot")


def silent_products(path):
    """Lines of a file with a product of JAX that says nothing of its precision."""
    tree = ast.parse(path.read_text())
    modules = {
        a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names
    }
    if "jax.numpy" not in modules:
        return
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute) and called.attr in JNP_PRODUCTS:
            named = {keyword.arg for keyword in node.keywords}
            if ast.unparse(called.value) == "jnp" and "precision" not in named:
                yield node.lineno
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            yield node.lineno


def test_no_product_outside_of_networks_is_silent():
    """It is `arrays.matmul` or another, or NumPy's by name."""
    root = Path(ss.__file__).parent
    found = [
        f"{path.relative_to(root)}:{line}"
        for path in sorted(root.rglob("*.py"))
        if path.relative_to(root).parts[0] not in ("networks", "latents")
        for line in silent_products(path)
    ]
    assert not found
