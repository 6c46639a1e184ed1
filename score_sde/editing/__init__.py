"""Restoration and editing: posteriors of a measurement, starting points, translation.

Given y = A(x0) + s n (`score_sde.measurements`), the denoiser of the posterior is

    D_y = D + sigma^2 grad log p(y given x, sigma)

and methods differ in what they take for p(y given x, sigma). `guided` has those that
make a denoiser of a denoiser, for every sampler and the likelihood; `stepwise` and
`decoupled` those that are a step rule, a sampler. `METHODS` has all by name, as a
config names them, each a function (denoise, measurement, y, ...) -> `Restorer`.
"""

from score_sde.editing.decoupled import DAPS as DAPS
from score_sde.editing.decoupled import REDDiff as REDDiff
from score_sde.editing.guided import dps as dps
from score_sde.editing.guided import keep_measured as keep_measured
from score_sde.editing.guided import moment_matching as moment_matching
from score_sde.editing.guided import pseudo_inverse as pseudo_inverse
from score_sde.editing.guided import replace as replace
from score_sde.editing.methods import METHODS as METHODS
from score_sde.editing.methods import Restorer as Restorer
from score_sde.editing.methods import restore_by as restore_by
from score_sde.editing.moves import Translation as Translation
from score_sde.editing.moves import invert as invert
from score_sde.editing.moves import noised as noised
from score_sde.editing.moves import tail as tail
from score_sde.editing.moves import translate as translate
from score_sde.editing.moves import translated as translated
from score_sde.editing.stepwise import DDRM as DDRM
from score_sde.editing.stepwise import DiffPIR as DiffPIR
from score_sde.editing.stepwise import FlowDPS as FlowDPS
from score_sde.measurements import conjugate_gradients as conjugate_gradients
