"""Rules of options stand in signatures, and hold wherever a part is made or called."""

from typing import Annotated

import jax
import jaxtyping
import numpy as np
import pytest

from score_sde import guidance, losses, noise_levels, precondition, sde
from score_sde.fields import MISSING, checks_rules, fields_of, value_problem
from score_sde.rules import Positive, one_of
from score_sde.samplers import SAMPLERS, grids

PARTS = {
    **{f"sampler {k}": (v, 0) for k, v in SAMPLERS.items()},
    **{f"grid {k}": (v, 0) for k, v in grids.GRIDS.items()},
    **{f"weight {k}": (v, 1) for k, v in losses.WEIGHTS.items()},
    **{f"precondition {k}": (v, 1) for k, v in precondition.PRECONDITIONERS.items()},
    **{f"guidance {k}": (v, 1) for k, v in guidance.GUIDANCES.items()},
    **{f"threshold {k}": (v, 1) for k, v in guidance.THRESHOLDS.items()},
    **{f"sde {k}": (v, 0) for k, v in sde.SDES.items()},
    **{f"levels {k}": (v, 0) for k, v in noise_levels.NOISE_LEVELS.items()},
}
ANY_TEXT = {"negative_caption", "captions", "skip", "attention"}
OBJECTS = {"classifier", "sde", "worse", "log_prob", "learned", "logits", "sigmas"}
OBJECTS |= {"grid", "perturbed"}


@pytest.mark.parametrize("part", PARTS)
def test_every_number_and_word_that_a_config_may_set_has_a_rule(part):
    constructor, skip = PARTS[part]
    for name, field in fields_of(constructor, skip=skip).items():
        assert field.rules or field.kind is bool or name in ANY_TEXT | OBJECTS, field
        if field.rules:
            assert value_problem(field, "nonsense") is not None
            if field.default is not MISSING:
                assert value_problem(field, field.default) is None


def test_a_rule_is_inherited_into_another_module():
    # DPMpp2MSDE has its eta from `samplers.ancestral`, and its module knows no rule.
    for name in ("dpmpp_2m_sde", "dpmpp_sde", "euler_ancestral"):
        with pytest.raises(ValueError, match="eta is -1.0; it must be >= 0"):
            SAMPLERS[name](eta=-1.0)


@checks_rules
def scaled(x, factor: Annotated[float, Positive] = 2.0, *, shift: float = 0.0):
    """Multiply and shift."""
    return factor * x + shift


def test_a_function_checks_arguments_given_by_place_and_by_name():
    assert scaled(3.0) == 6.0
    assert scaled(3.0, 4, shift=1.0) == 13.0
    for call in (lambda: scaled(1.0, 0.0), lambda: scaled(1.0, factor=0.0)):
        with pytest.raises(ValueError, match="scaled: factor is 0.0; it must be > 0"):
            call()
    with pytest.raises(ValueError, match="factor is 'two'; it must be float"):
        scaled(1.0, factor="two")
    assert fields_of(scaled, skip=1)["factor"].rules == (Positive,)


def test_traced_arguments_have_no_value_to_check():
    gradient = jax.grad(lambda factor: scaled(3.0, factor))(-1.0)
    np.testing.assert_allclose(gradient, 3.0)


def test_a_rule_of_a_registry_knows_what_was_added_later():
    registry = {"first": 1}
    rule = one_of(registry)
    assert not rule.holds("second")
    registry["second"] = 2
    assert rule.holds("second")
    assert "second" in rule.complaint("secnd")


def test_shapes_in_signatures_are_checked_while_tests_run():
    x0 = np.ones((2, 3))
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'eps'"):
        sde.perturb(x0, np.ones((2, 4)), 0.5, sde=sde.VP())
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 't'"):
        sde.perturb(x0, x0, np.full(3, 0.5), sde=sde.VP())


def test_numpy_and_lists_pass_the_checks_of_shapes():
    x0, vp = [[1.0, 2.0]], sde.VP()
    expected = sde.perturb(jax.numpy.asarray(x0), jax.numpy.asarray(x0), 0.5, sde=vp)
    for t in (0.5, np.float32(0.5), [0.5], np.asarray(0.5), np.asarray([0.5])):
        found = sde.perturb(x0, np.asarray(x0), t, sde=vp)
        np.testing.assert_allclose(found, expected, rtol=1e-6)  # float32 has 6e-8
