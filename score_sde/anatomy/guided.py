"""The law that guidance draws, beside the one its weight is often said to draw.

Prince 2023, sec. 18.6.3, figure 18.12. Guidance with weight 1 and the exact classifier
draws p(x given c). With a larger weight w it moves along scores of p_t(x) p_t(c given
x)^w at every level, which are not the scores of one law that is noised: its samples
differ from p(x) p(c given x)^w.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from score_sde import guidance
from score_sde.anatomy.lines import as_grid, components, integral, total_variation
from score_sde.likelihood import log_prob
from score_sde.oracles import LabelledMixture
from score_sde.precondition import make_score
from score_sde.sde import SDE, VP
from score_sde.types import Array


class GuidedLaw(NamedTuple):
    """The law of guided samples, and two laws beside it, on a grid."""

    density: Float[Array, " points"]
    """Of what the guided flow draws from the prior."""
    given: Float[Array, " points"]
    """p(x given c), normalised on the grid as the next is."""
    tilted: Float[Array, " points"]
    """p(x) p(c given x)^w, normalised."""
    total_variation: Float[Array, ""]
    """Between the first and the last."""


def guided_law(
    oracle: LabelledMixture,
    label: int,
    weight: float,
    grid: ArrayLike,
    *,
    sde: SDE | None = None,
    rtol: float = 1e-6,
) -> GuidedLaw:
    """The density of samples of the flow guided by the exact classifier.

    The density is computed by `log_prob`, with the exact divergence.

    Args:
        oracle: the law of data and classes, of one dimension.
        label: the class c.
        weight: the weight w of the classifier's gradient.
        grid: rising points, [points].
        sde: the forward process; `VP()` if None.
        rtol: tolerance of the flow's solver, relative and absolute.

    Raises: ValueError for a label beyond the classes and a weight that is not finite.
    """
    grid = as_grid(grid)
    components(oracle, grid.dtype)
    guidance.check_labels([label], len(oracle.classes))
    sde = VP() if sde is None else sde
    guidance.classifier(oracle.denoise, oracle.log_class, weight)  # of finite weight

    drawn, given, tilted = _laws(grid, oracle, label, weight, sde, rtol)
    return GuidedLaw(drawn, given, tilted, total_variation(drawn, tilted, grid))


@jax.jit
def _laws(
    grid: Array,
    oracle: LabelledMixture,
    label: Array,
    weight: Array,
    sde: SDE,
    rtol: Array,
) -> tuple[Array, Array, Array]:
    """Densities of the guided flow's samples, of the class, and of the tilted law."""
    x, cond = grid[:, None], {"label": jnp.full(len(grid), label, jnp.int32)}
    plain = guidance.without_condition(oracle.denoise)
    guided = guidance.classifier(plain, oracle.log_class, weight)
    found = log_prob(
        x,
        sde=sde,
        score=make_score(guided, sde),
        divergence="exact",
        rtol=rtol,
        atol=rtol,
        cond=cond,
    )
    nats, log_class = oracle.log_prob(x, 0.0), oracle.log_class(x, 0.0, cond)
    laws = [jnp.exp(nats + w * log_class) for w in (1.0, weight)]
    given, tilted = (law / integral(law, grid) for law in laws)
    return jnp.exp(found.nats), given, tilted
