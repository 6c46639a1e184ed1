"""Guidance: functions from denoiser to denoiser, for every sampler and likelihood.

A function that a config may name (`GUIDANCES`, `THRESHOLDS`, or one of your own that is
added there) has the signature

    guide(denoise, *, worse, classifier, option=default, ...) -> denoise

and states in it all that it needs: another model by a keyword-only parameter without a
default, named after the role of the run that offers it, such as `worse` (a denoiser) or
`classifier` (a `LabelLogProb`), or after what the run itself offers, `grid` (its noise
levels) and `perturbed` (a `Perturb`); a condition by the decorator `needs_condition`;
options, with their rules, by all other parameters.
`models_needed(guide)`, `condition_needed(guide)` and `fields.fields_of(guide, skip=1)`
read these; `bind(guide, **options)` binds options and checks them at once.
"""

from score_sde.arrays import check_labels as check_labels
from score_sde.guidance.branches import frequency_decoupled as frequency_decoupled
from score_sde.guidance.branches import tangential as tangential
from score_sde.guidance.branches import zero_star as zero_star
from score_sde.guidance.conditional import LabelLogProb as LabelLogProb
from score_sde.guidance.conditional import classifier as classifier
from score_sde.guidance.conditional import classifier_free as classifier_free
from score_sde.guidance.conditional import compose as compose
from score_sde.guidance.conditional import drop_condition as drop_condition
from score_sde.guidance.conditional import from_logits as from_logits
from score_sde.guidance.conditional import null_condition as null_condition
from score_sde.guidance.conditional import plus_plus as plus_plus
from score_sde.guidance.conditional import without_condition as without_condition
from score_sde.guidance.configured import GUIDANCES as GUIDANCES
from score_sde.guidance.configured import THRESHOLDS as THRESHOLDS
from score_sde.guidance.corrections import dynamic_threshold as dynamic_threshold
from score_sde.guidance.corrections import static_threshold as static_threshold
from score_sde.guidance.corrections import temperature as temperature
from score_sde.guidance.guided import Guided as Guided
from score_sde.guidance.guided import autoguidance as autoguidance
from score_sde.guidance.guided import interpolated as interpolated
from score_sde.guidance.guided import interval as interval
from score_sde.guidance.guided import network_evals as network_evals
from score_sde.guidance.needs import bind as bind
from score_sde.guidance.needs import condition_needed as condition_needed
from score_sde.guidance.needs import for_euler_steps as for_euler_steps
from score_sde.guidance.needs import is_model as is_model
from score_sde.guidance.needs import models_needed as models_needed
from score_sde.guidance.needs import needs_condition as needs_condition
from score_sde.guidance.needs import needs_euler_steps as needs_euler_steps
from score_sde.guidance.needs import tried as tried
from score_sde.guidance.needs import values_stated as values_stated
from score_sde.guidance.projected import adaptive_projected as adaptive_projected
from score_sde.guidance.variants import Perturb as Perturb
