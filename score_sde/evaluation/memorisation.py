"""Are samples new, or copies of training images? Nearest neighbours tell.

`authenticity` compares each sample's distance to the data with distances within the
data; `memorisation` compares distances to training and to held-out images.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from score_sde.evaluation.estimate import (
    Estimate,
    Level,
    checks_options,
    feature_array,
    feature_arrays,
    set_counts,
    share_interval,
)
from score_sde.evaluation.neighbours import nearest
from score_sde.evaluation.reading import reads
from score_sde.rules import Positive


@reads("features", "training")
@checks_options
def authenticity(
    real: Any, fake: Any, *, level: Annotated[float | None, Level] = 0.95
) -> Estimate:
    """The share of samples that are no near copies of data (Alaa et al. 2022).

    A sample is authentic if its nearest real point has another real point nearer to it
    than the sample is.

    Args:
        real: features [examples, dims] of the training images.
        fake: features of generated images.
        level: that of the interval; None for none.
    Raises: ValueError for what is not comparable.
    """
    x, y = feature_arrays(("real", "fake"), real, fake)
    among_real = nearest(x, x, same=True)[0][:, 0]
    squares, indices = nearest(y, x)
    share = float(np.mean(among_real[indices[:, 0]] < squares[:, 0]))
    low, high = share_interval(share, len(y), level)
    method = "Wilson, over samples; data fixed"
    return Estimate(share, low, high, level, method, set_counts(x, y))


@reads("features", "training")
@checks_options
def memorisation(
    real: Any,
    fake: Any,
    *,
    held_out: Any,
    level: Annotated[float | None, Level] = 0.95,
) -> Estimate:
    """The share of samples whose nearest image is a training one, not a held-out one.

    A model that generalises has `parts["expected"]`, the training images' share of all
    images; `parts["excess"]` is what exceeds it. A tie counts as half.

    Args:
        real: features [examples, dims] of the training images.
        fake: features of generated images.
        held_out: features of images of the same law that were not trained on.
        level: that of the interval; None for none.
    Raises: ValueError for what is not comparable.
    """
    x, y = feature_arrays(("real", "fake"), real, fake, at_least=1)
    _, z = feature_arrays(("real", "held_out"), real, held_out, at_least=1)
    to_train, to_held_out = nearest(y, x)[0][:, 0], nearest(y, z)[0][:, 0]
    nearer = (to_train < to_held_out) + 0.5 * (to_train == to_held_out)
    share = float(np.mean(nearer))
    expected = len(x) / (len(x) + len(z))
    low, high = share_interval(share, len(y), level)
    return Estimate(
        share,
        low,
        high,
        level,
        "Wilson, over samples; data fixed",
        {**set_counts(x, y), "num_held_out": len(z)},
        parts={"expected": expected, "excess": share - expected},
    )


@checks_options
def nearest_neighbours(
    features: Any, others: Any, *, k: Annotated[int, Positive] = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Distances and indices of the k nearest of `others` to each of `features`, [n, k].

    Args:
        features: [n, dims].
        others: [m, dims].
        k: how many neighbours, the nearest first.
    Raises: ValueError for what is not comparable, or fewer than k others.
    """
    x, y = feature_arrays(("features", "others"), features, others, at_least=1)
    feature_array("others", y, at_least=k, why=f" for k = {k} neighbours")
    squares, indices = nearest(x, y, k)
    return np.sqrt(squares), indices
