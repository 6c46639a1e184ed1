"""Shapes in the signatures of the mathematics, checked at every call in tests."""

import inspect

import jaxtyping
from beartype import BeartypeConf, beartype

MODULES = [
    f"score_sde.{room}"
    for room in (
        "sde",
        "predictions",
        "precondition",
        "losses",
        "noise_levels",
        "elbo",
        "divergences",
        "likelihood",
        "dequantisation",
        "oracles",
        "editing",
        "guidance",
        "samplers.loop",
        "samplers.continuous",
        "samplers.grids",
    )
]
# A whole number is a number.
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function):
    """Check calls of functions whose signature states shapes.

    Constructors are left out: pytrees are made of placeholders too.
    """
    hints = inspect.get_annotations(function).values()
    states_shapes = any("jaxtyping" in repr(hint) for hint in hints)
    if not states_shapes or function.__name__ == "__init__":
        return function
    return _check(function)


def install():
    """Check what is imported from now on."""
    jaxtyping.install_import_hook(MODULES, "typecheck.check")
