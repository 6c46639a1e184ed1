"""Guidance: functions from denoiser to denoiser, for every sampler and likelihood."""

from score_sde.arrays import check_labels as check_labels
from score_sde.guidance.conditional import classifier as classifier
from score_sde.guidance.conditional import classifier_free as classifier_free
from score_sde.guidance.conditional import compose as compose
from score_sde.guidance.conditional import drop_condition as drop_condition
from score_sde.guidance.conditional import from_logits as from_logits
from score_sde.guidance.conditional import null_condition as null_condition
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
