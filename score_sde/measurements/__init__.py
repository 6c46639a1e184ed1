"""Measurements y = A(x) + s n of an example: what restoration starts from.

Each knows what the methods of `score_sde.editing` need: `__call__`, A itself, and
`pull`, the transpose of its derivative. Linear ones also solve
(scale A A' + shift I) z = y, and those whose singular values are known filter by them.
y has the batch of x.
"""

from score_sde.measurements.linear import Blur as Blur
from score_sde.measurements.linear import Downsample as Downsample
from score_sde.measurements.linear import Grey as Grey
from score_sde.measurements.linear import Mask as Mask
from score_sde.measurements.linear import Matrix as Matrix
from score_sde.measurements.linear import gaussian_kernel as gaussian_kernel
from score_sde.measurements.measurement import Measurement as Measurement
from score_sde.measurements.measurement import (
    conjugate_gradients as conjugate_gradients,
)
from score_sde.measurements.measurement import require_real as require_real
from score_sde.measurements.nonlinear import JPEG as JPEG
from score_sde.measurements.nonlinear import Magnitude as Magnitude
from score_sde.measurements.nonlinear import NonLinear as NonLinear
from score_sde.measurements.operators import Operator as Operator
from score_sde.measurements.operators import adjoint_error as adjoint_error
from score_sde.measurements.operators import fourier as fourier
from score_sde.measurements.resample import Resample as Resample
